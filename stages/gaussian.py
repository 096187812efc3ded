"""Fit the Gaussian initial distribution to the training images, and one to each class's if asked: gaussian.npz."""

import sys
from pathlib import Path

import numpy as np

from mebm.data.images import load_images
from mebm.errors import DataError
from mebm.files import sha256, write_npz
from mebm.method.gaussian import MOMENTS, ClasswiseInit, GaussianInit, fit_classes, fit_gaussian
from mebm.settings.stages import GaussianSettings
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("gaussian", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--out", type=Path, required=True, help="archive to write")
    return cli.execute(parser, argv, work)


def work(args, settings: GaussianSettings) -> None:
    data = load_images(args.train)
    mean, cov = fit_gaussian(data.images.to(cli.device_for(settings.compute)))
    mean, cov, ridge = mean.cpu(), cov.cpu(), settings.gaussian.ridge
    GaussianInit.from_moments(mean, cov, data.shape, ridge)  # refuse here what no run could draw from
    more = {}
    if settings.gaussian.classwise:
        if data.labels is None:
            raise DataError(f"{args.train}: has no labels, so gaussian.classwise must be false")
        moments = fit_classes(data.images, data.labels, data.n_classes)
        ClasswiseInit.from_moments(*moments, data.shape, ridge)
        more = dict(zip(MOMENTS["classwise"], (value.numpy() for value in moments), strict=True))
    write_npz(
        args.out,
        mean=mean.numpy(),
        cov=cov.numpy(),
        ridge=np.float64(ridge),
        count=np.int64(len(data)),
        source_sha256=np.array(sha256(args.train)),
        **more,
    )
    cli.log.info("%s: %d dimensions from %d images", settings.name, len(mean), len(data))


if __name__ == "__main__":
    sys.exit(main())
