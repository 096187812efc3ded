"""Check a bundle that `archive` wrote: every file against its checksum and against DVC's lock file."""

import argparse
from pathlib import Path

from mebm.engine.bundle import verify


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help="the bundle")


def run(args: argparse.Namespace) -> None:
    files, confirmed, outside = verify(args.file)
    print(f"{args.file}: {files} files are whole; {len(confirmed)} outputs are what dvc.lock recorded")
    print(f"{len(outside)} more are recorded there and not in the bundle (weights, chains, data):")
    print("".join(f"  {path}\n" for path in sorted(outside)), end="")
