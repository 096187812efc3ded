"""Feature statistics of the training images, the reference of the Frechet distance: reference.npz."""

import sys
from pathlib import Path

import numpy as np

from mebm.data import load_images
from mebm.features import extract, load_network
from mebm.files import sha256, write_npz
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("reference", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--features", type=Path, required=True, help="feature network")
    parser.add_argument("--out", type=Path, required=True, help="archive to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    network, shape = load_network(args.features, cli.device_for(settings.compute))
    data = load_images(args.train, shape)
    mu, sigma, _ = extract(network, data.images, settings.compute.eval_batch_size)
    write_npz(
        args.out,
        mu=mu.numpy(),
        sigma=sigma.numpy(),
        count=np.int64(len(data)),
        features_sha256=np.array(sha256(args.features)),
    )
    cli.log.info("%s: %d features of %d images", settings.name, len(mu), len(data))


if __name__ == "__main__":
    sys.exit(main())
