"""Make the network in whose features quality is measured: features.pt, and its description in features.json.

It is Inception with its published weights, verified by hash, a small classifier that is trained here, or another
network of mebm/measure/networks.
"""

import sys
from pathlib import Path

from mebm.files import sha256, write_json
from mebm.measure import networks
from mebm.measure.features import save_network
from mebm.settings.stages import FeaturesSettings
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("features", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--test", type=Path, required=True, help="archive of held-out images")
    parser.add_argument("--out", type=Path, required=True, help="network to write")
    parser.add_argument("--metrics", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings: FeaturesSettings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.features
    made = networks.module(wanted.network).make
    network, record = made(wanted, args.train, args.test, device, settings.compute.eval_batch_size)
    said = ", ".join(f"{key} {value}" for key, value in record.items())
    cli.log.info("%s: %s, %s", settings.name, network.title, said)
    save_network(args.out, network)
    record = {"network": wanted.network, **record, "features_sha256": sha256(args.out)}
    write_json(args.metrics, {**record, "versions": cli.packages(), "provenance": cli.provenance()})


if __name__ == "__main__":
    sys.exit(main())
