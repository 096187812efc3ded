"""Prepare a data set: data/<set>/{train,test}.npz and manifest.json."""

import sys
from pathlib import Path

from mebm.data.manifest import sentences
from mebm.data.prepare import MADE, prepare
from mebm.settings.stages import DatasetSettings
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("dataset", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    return cli.execute(parser, argv, work, lambda _: MADE)


def work(args, settings: DatasetSettings) -> None:
    manifest = prepare(settings.dataset, settings.name, args.out)
    cli.log.info("%s: %s images of %s", settings.name, manifest["counts"], manifest["shape"])
    for sentence in sentences(manifest):
        cli.log.info("%s: %s", settings.name, sentence)


if __name__ == "__main__":
    sys.exit(main())
