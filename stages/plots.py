"""Draw a run's training curves: curves.png."""

import sys
from pathlib import Path

from mebm.plots import plot_curves, read_log
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("plots", __doc__)
    parser.add_argument("--log", type=Path, required=True, help="log.csv of the run")
    parser.add_argument("--out", type=Path, required=True, help="picture to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    plot_curves(read_log(args.log), settings.name, args.out)


if __name__ == "__main__":
    sys.exit(main())
