"""Resolve params.yaml: one small file of parameters for every job of the suite.

Stages depend on these files and not on params.yaml, so an edit makes stale exactly the jobs that read the value. It is
the only stage without a name; it also checks the whole file before any other stage starts.
"""

import argparse
import sys
from pathlib import Path

from mebm import params
from mebm.errors import MebmError
from mebm.pipeline import Graph
from mebm.strays import remove_strays


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.params", description=__doc__.splitlines()[0])
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder of the resolved files")
    args = parser.parse_args(argv)
    try:
        settings = params.load(args.params)
        root = args.params.parent
        if (root / "dvc.yaml").is_file():
            for path in remove_strays(Graph(root / "dvc.yaml", settings), root):
                print(f"removed {path}: no job of this suite makes it; DVC's cache has it", file=sys.stderr)
        params.write_all_resolved(settings, args.out)
    except MebmError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
