"""Print the tables of the suite in use, and the paths of its page and pictures that exist."""

import argparse
from pathlib import Path

from mebm.files import read_text, require
from mebm.settings.schema import Gaussian
from mebm.settings.suite import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--results", type=Path, default=Path("results"), help="folder of the results (%(default)s)")


def run(args: argparse.Namespace) -> None:
    settings = load_params(args.params)
    names = [*settings.tables, f"start_{settings.suite}"]
    tables = [require(args.results / "tables" / f"{name}.md") for name in names]
    for table in tables[: len(settings.tables)]:
        print(f"\n{read_text(table)}")
    found = [("tables, also .csv and .tex", table) for table in tables]
    found += [("page", args.results / settings.suite / "report.html")]
    for name in settings.runs:
        found += [(f"samples of {name}", args.results / name / "sample" / "grid.png")]
        found += [(f"curves of {name}", args.results / name / "analyses" / "curves" / "figures")]
    for dataset, entry in settings.datasets.items():
        if entry.of(Gaussian).classwise:
            path = args.results / "baseline" / dataset / "classwise.png"
            found += [(f"initial draws of {dataset} by classes", path)]
        found += [(f"initial draws of {dataset}", args.results / "baseline" / dataset / "initial.png")]
        found += [(f"held-out images of {dataset}", args.results / "baseline" / dataset / "heldout.png")]
    found = [(what, path) for what, path in found if path.exists()]
    width = max(len(what) for what, _ in found)
    for what, path in found:
        print(f"{what:{width}}  {path}")
