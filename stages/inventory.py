"""List what lies in a run's folder, by the hashes of its files: results/inventory/<run>.json.

The report reads the folders of all runs. By these lists it becomes stale when something in them has changed (dvc.yaml).
"""

import sys
from pathlib import Path

from mebm.engine.hashes import Hashes
from mebm.errors import DataError
from mebm.files import sha256, write_json
from mebm.settings.stages import RunSettings
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("inventory", __doc__)
    parser.add_argument("--folder", type=Path, required=True, help="folder of the run")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings: RunSettings) -> None:
    if not args.folder.is_dir():
        raise DataError(f"{args.folder}: no such folder; run the jobs of {settings.name} first")
    write_json(args.out, {name: sha256(args.folder / name) for name in Hashes().files(args.folder)})


if __name__ == "__main__":
    sys.exit(main())
