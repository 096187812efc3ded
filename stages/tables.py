"""Collect the metric records of the suite into a table: results/tables/<table>.{md,csv,tex}.

Markdown and LaTeX hold the table in print with its caption, CSV the numbers behind it in full.
"""

import sys
from pathlib import Path

from mebm.engine import failures
from mebm.files import read_json, write_text
from mebm.settings.checks import BASELINES, CLASSWISE
from mebm.settings.stages import Row, TableSettings
from mebm.show import tables
from mebm.show.formats import to_csv, to_latex, to_markdown
from mebm.show.rows import Result
from mebm.show.summaries import Measured, Summary, summarise
from stages import cli

FORMS = ("md", "csv", "tex")
RUN_STAGES = ("train", "import_checkpoint", "sample", "quality", "accuracy", "summary")


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("tables", __doc__)
    parser.add_argument("--summary", type=Path, required=True, help="folder with the runs' summaries")
    parser.add_argument("--baseline", type=Path, required=True, help="folder with the baselines' records")
    parser.add_argument("--out", type=Path, required=True, help="folder of the tables")
    return cli.execute(parser, argv, work, lambda settings: forms(settings.name))


def work(args, settings: TableSettings) -> None:
    results = [_run_result(args, name, run) for name, run in settings.runs.items()]
    if tables.module(settings.name).BASELINES:
        results += baseline_results(args.baseline, settings.datasets)
    write_table(args.out / settings.name, settings.name, results, settings)


def _run_result(args, name: str, run: Row) -> Result:
    path = args.summary / f"{name}.json"
    summary = read_json(path, Summary) if path.is_file() else None
    reason = "" if summary else failures.reason(RUN_STAGES, name, args.state) or "not run"
    return Result(
        run.dataset,
        run.method,
        summary,
        True,
        reason,
        run.n_steps,
        run.classifies,
        tuple(run.protocols),
        run.imported,
        run.evaluate_on,
        summary["hours"] if summary and "hours" in summary else None,
    )


def baseline_results(folder: Path, datasets: dict[str, str]) -> list[Result]:
    """Rows of the initial distribution and of held-out images, a dash and its reason where there is no record.

    That by classes has a row only where it was fitted.
    """
    results = []
    for dataset in datasets:
        for name, label in BASELINES.items():
            path = folder / dataset / f"{name}.json"
            summary = summarise({"full": read_json(path, Measured)}) if path.is_file() else None
            if label != CLASSWISE or (summary and summary["n_images"]):
                results.append(Result(dataset, label, summary, False, "" if summary else "not run"))
    return results


def forms(name: str) -> list[str]:
    """The files of a table."""
    return [f"{name}.{suffix}" for suffix in FORMS]


def write_table(stem: Path, table: str, results: list[Result], settings: TableSettings) -> None:
    """Write a table in its three forms."""
    made = tables.make(table, results, settings.datasets, settings.tables.digits)
    latex = to_latex(made.printed, made.caption, stem.name)
    contents = (to_markdown(made.printed, made.caption), to_csv(made.numbers), latex)
    for suffix, content in zip(FORMS, contents, strict=True):
        write_text(stem.with_name(f"{stem.name}.{suffix}"), content)


if __name__ == "__main__":
    sys.exit(main())
