"""Condense a run's records into the few numbers that tables and `dvc metrics` show: results/summary/<run>.json."""

import sys
from pathlib import Path

from mebm.files import read_json, write_json
from mebm.settings.stages import RunSettings
from mebm.show.summaries import Accuracy, Quality, Spent, summarise
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("summary", __doc__)
    parser.add_argument("--quality", type=Path, required=True, help="quality.json of the run")
    parser.add_argument("--accuracy", type=Path, required=True, help="accuracy.json of the run")
    parser.add_argument("--cost", type=Path, required=True, help="cost.json of the run: what training took")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings: RunSettings) -> None:
    found = summarise(read_json(args.quality, Quality), read_json(args.accuracy, Accuracy))
    write_json(args.out, {**found, "hours": read_json(args.cost, Spent)["hours"]})


if __name__ == "__main__":
    sys.exit(main())
