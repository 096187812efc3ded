"""Compute what quality is measured against, features of the training images: reference.npz.

Their mean and covariance, for the Frechet distance, and the features of some single images, for precision and recall.
"""

import sys
from pathlib import Path

import numpy as np

from mebm.data.images import load_images
from mebm.files import sha256, write_npz
from mebm.measure.features import extract, load_network, read_statistics
from mebm.seeds import choice
from mebm.settings.stages import ReferenceSettings
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("reference", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--features", type=Path, required=True, help="feature network")
    parser.add_argument("--out", type=Path, required=True, help="archive to write")
    return cli.execute(parser, argv, work)


def work(args, settings: ReferenceSettings) -> None:
    network = load_network(args.features, cli.device_for(settings.compute))
    data = load_images(args.train)
    if settings.reference.file is not None:
        mu, sigma = read_statistics(settings.reference.file, network)
        count, single = 0, {}  # such a file does not say, and has no features of single images
    else:
        chosen = choice(len(data), settings.reference.n_features, "reference features", 0)
        mu, sigma, _, features = extract(network, data.images, settings.compute.eval_batch_size, chosen)
        count, single = len(data), {"features": features.numpy()}
    write_npz(
        args.out,
        mu=mu.numpy(),
        sigma=sigma.numpy(),
        count=np.int64(count),
        shape=np.array(data.shape, np.int64),
        preprocessing=np.array(network.preprocessing),
        features_sha256=np.array(sha256(args.features)),
        **single,
    )
    cli.log.info("%s: %d features of %s images", settings.name, len(mu), count or "an unknown number of")


if __name__ == "__main__":
    sys.exit(main())
