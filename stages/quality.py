"""Score a run's images: Frechet distance and score, with their conditions, in quality.json."""

import sys
from pathlib import Path

from mebm.data import load_images
from mebm.errors import DataError
from mebm.files import read_json, sha256, write_json
from mebm.quality import QualityMeter
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("quality", __doc__)
    parser.add_argument("--images", type=Path, required=True, help="archive of the run's images")
    parser.add_argument("--manifest", type=Path, required=True, help="how they were made")
    parser.add_argument("--features", type=Path, required=True, help="feature network")
    parser.add_argument("--reference", type=Path, required=True, help="feature statistics of the training images")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    manifest = read_json(args.manifest)
    if manifest.get("images_sha256") != sha256(args.images):
        raise DataError(f"{args.manifest}: does not describe {args.images} (another hash); run the sample stage again")
    device = cli.device_for(settings.compute)
    meter = QualityMeter(args.features, args.reference, device, settings.compute.eval_batch_size)
    images = load_images(args.images, meter.shape).images
    record = meter.measure(images, settings.quality.score_splits, settings.quality.permutation_seed)
    shares = {"class_shares_of_model": manifest["class_shares"]} if "class_shares" in manifest else {}
    conditions = {
        key: manifest[key] for key in ("keep_ratio", "rounding", "seed", "checkpoint_sha256", "images_sha256")
    }
    write_json(args.out, {**record, **shares, **conditions, "versions": cli.versions()})
    cli.log.info("%s: fcd %.3f, classifier score %.3f", settings.name, record["fcd"], record["classifier_score"])


if __name__ == "__main__":
    sys.exit(main())
