"""Get the network in whose features quality is measured: features.pt, and what it is in features.json.

Inception with its published weights, verified by hash, or a small classifier trained here.
"""

import sys
from pathlib import Path

from mebm.data.images import load_images
from mebm.files import sha256, write_json
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.features import extract, save_network, train_classifier
from mebm.measure.inception import InceptionFeatures, read_weights
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("features", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--test", type=Path, required=True, help="archive of held-out images")
    parser.add_argument("--out", type=Path, required=True, help="network to write")
    parser.add_argument("--metrics", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.features
    record: dict = {"network": wanted.network}
    if wanted.network == "inception":
        state, weights_sha256 = read_weights(wanted)
        network = InceptionFeatures(state, wanted.preprocessing, weights_sha256)
        record |= {"preprocessing": wanted.preprocessing, "weights_sha256": weights_sha256}
        cli.log.info("%s: Inception, weights %s", settings.name, weights_sha256[:8])
    else:
        data = load_images(args.train)
        test = load_images(args.test, data.shape)
        network = train_classifier(wanted, data, device)
        logits = extract(network, test.images, settings.compute.eval_batch_size)[2]
        accuracy, loss = accuracy_and_loss(logits, test.labels)
        record |= {"accuracy": accuracy, "loss": loss, "n_images": len(test)}
        cli.log.info("%s: accuracy of the feature classifier %.4f", settings.name, accuracy)
    save_network(args.out, network)
    write_json(
        args.metrics,
        {**record, "features_sha256": sha256(args.out), "versions": cli.versions(), "provenance": cli.provenance()},
    )


if __name__ == "__main__":
    sys.exit(main())
