"""Describe the suite's prepared data sets in the format Croissant, for search engines and loaders.

Writes data/<set>/croissant.json from the manifest beside it: images, classes, files with size and SHA-256, licence,
origin. Nothing becomes stale. Data sets that models are only compared on have none.
"""

import argparse
from pathlib import Path

from mebm.settings.suite import load_params


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of the prepared data (%(default)s)")


def run(args: argparse.Namespace) -> None:
    from mebm.data import croissant

    for name in load_params(args.params).datasets:
        counts = croissant.write(args.data / name)["counts"]
        print(f"{args.data / name / croissant.NAME}: {counts['train']} images to train on, {counts['test']} held out")
