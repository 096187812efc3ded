"""Make the table of initial distributions: results/tables/start_<suite>.{md,csv,tex}. It needs no training."""

import sys
from pathlib import Path

from mebm.settings.stages import TableSettings
from stages import cli
from stages.tables import baseline_results, forms, write_table


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("start", __doc__)
    parser.add_argument("--baseline", type=Path, required=True, help="folder with the baselines' records")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    return cli.execute(parser, argv, work, lambda settings: forms(f"start_{settings.name}"))


def work(args, settings: TableSettings) -> None:
    results = baseline_results(args.baseline, settings.datasets)
    write_table(args.out / f"start_{settings.name}", "start", results, settings)


if __name__ == "__main__":
    sys.exit(main())
