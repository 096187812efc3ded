"""Check a bundle that `python -m stages.archive` wrote: every file against its checksum and against DVC's lock file."""

import argparse
import sys
from pathlib import Path

from mebm.engine.bundle import verify
from mebm.errors import MebmError, one_line


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.verify", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", type=Path, help="the bundle")
    args = parser.parse_args(argv)
    try:
        files, confirmed, outside = verify(args.file)
    except MebmError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    print(f"{args.file}: {files} files are whole; {len(confirmed)} outputs are what dvc.lock recorded")
    print(f"{len(outside)} more are recorded there and not in the bundle (weights, chains, data):")
    print("".join(f"  {path}\n" for path in sorted(outside)), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
