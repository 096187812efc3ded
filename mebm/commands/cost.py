"""Estimate what training the suite costs on the device found, or on a card: images, iterations, operations, hours.

The hours come from what was measured on the card (docs/performance.md), and where that is not known from half a second
of calibration per network; the last column says which. On a CPU, runs that would take longer than
compute.cpu_hours are refused: exit status 1. Imported runs cost nothing; of one that --runs names, the checkpoint is
read, and refused if it does not fit.
"""

import argparse
from pathlib import Path

from mebm.engine.refusal import check_cost, check_imports
from mebm.settings.suite import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the prepared data (%(default)s)")
    parser.add_argument("--card", choices=("H100",), help="hours on this card, which need not be here")
    parser.add_argument(
        "--runs", nargs="*", metavar="NAME", help="only these runs (all that are trained); an imported one is checked"
    )


def run(args: argparse.Namespace) -> None:
    settings = load_params(args.params)
    runs = list(settings.trained) if args.runs is None else args.runs
    imported = [name for name in runs if name in settings.imported]
    check_imports(settings, imported)
    if trained := [name for name in runs if name not in imported]:
        check_cost(settings, trained, args.data, args.card)
