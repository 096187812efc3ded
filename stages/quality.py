"""Measure the quality of a run's images: distance, score, precision and recall, with their conditions: quality.json."""

import sys
from pathlib import Path
from typing import Annotated

from pydantic import Field

from mebm.data.images import load_images
from mebm.errors import DataError
from mebm.files import Record, read_json, sha256, write_json
from mebm.measure.quality import QualityMeter
from mebm.settings.schema import Protocol
from mebm.settings.stages import QualitySettings
from stages import cli


class _Conditions(Record):
    images_sha256: str


class Manifest(Record):
    """What the stage `sample` says of the images."""

    seed: int
    restarts: Annotated[int, Field(ge=0)]
    checkpoint_sha256: str
    protocols: dict[Protocol, _Conditions]


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("quality", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="folder with the run's images")
    parser.add_argument("--manifest", type=Path, required=True, help="record of how the images were selected")
    parser.add_argument("--features", type=Path, required=True, help="feature network")
    parser.add_argument("--reference", type=Path, required=True, help="feature statistics of the training images")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings: QualitySettings) -> None:
    manifest, quality = read_json(args.manifest, Manifest), settings.quality
    device = cli.device_for(settings.compute)
    meter = QualityMeter(args.features, args.reference, device, settings.compute.eval_batch_size)
    common = {key: manifest[key] for key in ("seed", "restarts", "checkpoint_sha256", "choice") if key in manifest}
    records = {}
    for protocol, conditions in manifest["protocols"].items():
        path = args.images / f"{protocol}.npz"
        if conditions["images_sha256"] != sha256(path):
            raise DataError(f"{args.manifest}: does not describe {path} (another hash); run the sample stage again")
        images = load_images(path, meter.shape).images
        record = meter.measure(images, quality.score_splits, quality.permutation_seed, quality.neighbours)
        records[protocol] = {
            **record,
            "protocol": protocol,
            **conditions,
            **common,
            "versions": cli.packages(),
            "provenance": cli.provenance(),
        }
        cli.log.info("%s, protocol %s: %s", settings.name, protocol, meter.headline(record))
    write_json(args.out, records)


if __name__ == "__main__":
    sys.exit(main())
