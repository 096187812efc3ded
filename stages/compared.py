"""Prepare images that models are only compared on: data/compared/<set>/{train,test}.npz and manifest.json."""

import sys
from pathlib import Path

from mebm.data.prepare import MADE
from stages import cli
from stages.dataset import work


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("compared", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    return cli.execute(parser, argv, work, lambda _: MADE)


if __name__ == "__main__":
    sys.exit(main())
