"""Collect every metric file of the suite into results/tables/<suite>.{md,csv,tex}."""

import sys
from pathlib import Path

from mebm.files import read_json, write_text
from mebm.tables import Result, rows, summarise, to_csv, to_latex, to_markdown
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("tables", __doc__)
    parser.add_argument("--summary", type=Path, required=True, help="folder with the runs' summaries")
    parser.add_argument("--baseline", type=Path, required=True, help="folder with the baselines' records")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    results = [
        Result(run["dataset"], run["method"], read_json(args.summary / f"{name}.json"), True)
        for name, run in settings.runs.items()
    ]
    for dataset in settings.datasets:
        for name, label in (("initial", "initial distribution"), ("heldout", "held-out real images")):
            record = summarise(read_json(args.baseline / dataset / f"{name}.json"))
            results.append(Result(dataset, label, record, False))
    table = rows(results, settings.tables.digits)
    for suffix, render in (("md", to_markdown), ("csv", to_csv), ("tex", to_latex)):
        write_text(args.out / f"{settings.name}.{suffix}", render(table))


if __name__ == "__main__":
    sys.exit(main())
