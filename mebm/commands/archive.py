"""Bundle a suite in one file for a paper's supplement.

The bundle holds parameters, lock files, metrics, tables, figures, environment, checksums and, as an RO-Crate, what made
what. Run it in the project's folder, with all jobs of the suite up to date. `python -m mebm verify FILE` checks it.
"""

import argparse
from pathlib import Path

from mebm.engine.bundle import bundle, environment
from mebm.engine.graph import PARAMS_STAGE, Graph
from mebm.engine.plan import make_plan
from mebm.errors import DataError
from mebm.settings.suite import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="file to write (results/<suite>.zip)")


def run(args: argparse.Namespace) -> None:
    settings = load_params("params.yaml")
    out = args.out or Path("results") / f"{settings.suite}.zip"
    graph = Graph("dvc.yaml", settings)
    plan = make_plan(graph, settings, settings.path.read_text(encoding="utf-8"))
    # an edit that changes no record leaves the results what they are
    stale = [address for address in plan.stale if address != PARAMS_STAGE or "params.yaml" in str(plan.own[address])]
    if stale:
        more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
        raise DataError(
            f"{', '.join(stale[:3])}{more}: not up to date, so the bundle would not hold what params.yaml says; "
            "run `snakemake` first"
        )
    count = bundle(Path("."), graph, settings.suite, environment(), out)
    print(f"{out}: {count} files, {out.stat().st_size / 1e6:.1f} MB")
