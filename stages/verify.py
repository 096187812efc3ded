"""Check a bundle that `python -m stages.archive` wrote: every file against its checksum and against DVC's lock file."""

import argparse
import sys
from pathlib import Path

from mebm.archive import verify
from mebm.errors import MebmError


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.verify", description=__doc__, allow_abbrev=False)
    parser.add_argument("file", type=Path, help="the bundle")
    args = parser.parse_args(argv)
    try:
        found = verify(args.file)
    except MebmError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    print(
        f"{args.file}: {found['files']} files are whole; {found['confirmed']} outputs are what dvc.lock recorded, "
        f"{found['outside']} more (weights, chains, data) are recorded there and not in the bundle"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
