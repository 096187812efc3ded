"""Train the classifier in whose features quality is measured: features.pt, and its test accuracy in features.json."""

import sys
from pathlib import Path

from mebm.data import load_images
from mebm.features import extract, save_network, train_classifier
from mebm.files import sha256, write_json
from mebm.metrics import accuracy_and_loss
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("features", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--test", type=Path, required=True, help="archive of held-out images")
    parser.add_argument("--out", type=Path, required=True, help="network to write")
    parser.add_argument("--metrics", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    data = load_images(args.train)
    test = load_images(args.test, data.shape)
    network = train_classifier(settings.features, data, cli.device_for(settings.compute))
    accuracy, loss = accuracy_and_loss(extract(network, test.images, settings.compute.eval_batch_size)[2], test.labels)
    save_network(args.out, network, data.shape)
    record = {"network": settings.features.network, "accuracy": accuracy, "loss": loss, "n_images": len(test)}
    write_json(args.metrics, {**record, "features_sha256": sha256(args.out), "versions": cli.versions()})
    cli.log.info("%s: accuracy of the feature classifier %.4f", settings.name, accuracy)


if __name__ == "__main__":
    sys.exit(main())
