"""Collect what a suite's runs reached, for `dvc metrics` and `dvc exp show`: results/<suite>/metrics.json.

One entry per run, so that columns have names such as mjem_mnist.fcd. A run without a summary is left out.
"""

import sys
from pathlib import Path

from mebm.files import read_json, write_json
from mebm.settings.stages import SuiteSettings
from mebm.show.summaries import METRICS, Summary
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("metrics", __doc__)
    parser.add_argument("--summary", type=Path, required=True, help="folder with the runs' summaries")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings: SuiteSettings) -> None:
    paths = {run: args.summary / f"{run}.json" for run in settings.runs}
    record = {run: _numbers(read_json(path, Summary)) for run, path in paths.items() if path.is_file()}
    write_json(args.out, record)


def _numbers(summary: dict) -> dict:
    """The metrics of a summary, without counts and what does not exist; those of other protocols below their name."""
    nested = {key: _numbers(value) for key, value in summary.items() if isinstance(value, dict) and key != "choice"}
    return {key: summary[key] for key in METRICS if summary.get(key) is not None} | nested


if __name__ == "__main__":
    sys.exit(main())
