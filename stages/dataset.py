"""Prepare a data set: data/<set>/{train,test}.npz and manifest.json."""

import sys
from pathlib import Path

from mebm.data import save_images
from mebm.datasets import prepare
from mebm.files import sha256, write_json
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("dataset", __doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the data set")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    splits, manifest = prepare(settings.dataset)
    for name, (images, labels) in splits.items():
        save_images(args.out / f"{name}.npz", images, labels)
    manifest["sha256"] = {name: sha256(args.out / f"{name}.npz") for name in splits}
    write_json(args.out / "manifest.json", {"name": settings.name, **manifest})
    cli.log.info("%s: %s images of %s", settings.name, manifest["counts"], manifest["shape"])


if __name__ == "__main__":
    sys.exit(main())
