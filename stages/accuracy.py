"""Score a run's classifier on held-out images, BatchNorm with running statistics: accuracy.json."""

import sys
from pathlib import Path

import torch

from mebm.checkpoint import load_checkpoint
from mebm.data import bytes_to_unit, load_images
from mebm.errors import DataError
from mebm.files import sha256, write_json
from mebm.metrics import accuracy_and_loss
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("accuracy", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the run")
    parser.add_argument("--test", type=Path, required=True, help="archive of held-out images")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    device = cli.device_for(settings.compute)
    checkpoint = load_checkpoint(args.checkpoint, device)
    record = {"accuracy": None, "loss": None, "status": "no classifier: pyx_weight is 0"}
    test = load_images(args.test, checkpoint.shape, allow_empty=True)
    if checkpoint.train["pyx_weight"] > 0 and not len(test):
        record["status"] = "no held-out images: all train"
    elif checkpoint.train["pyx_weight"] > 0:
        if test.labels is None or test.n_classes > checkpoint.n_classes:
            raise DataError(f"{args.test}: labels do not fit a classifier of {checkpoint.n_classes} classes")
        batches = test.images.split(settings.compute.eval_batch_size)
        with torch.no_grad():
            logits = torch.cat([checkpoint.model.logits(bytes_to_unit(batch.to(device))).cpu() for batch in batches])
        accuracy, loss = accuracy_and_loss(logits, test.labels)
        record = {"accuracy": accuracy, "loss": loss, "status": "ok"}
    record |= {"n_images": len(test), "bn_stats": "running", "seed": checkpoint.train["seed"]}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "test_sha256": sha256(args.test)}
    write_json(args.out, {**record, "versions": cli.versions()})
    cli.log.info("%s: accuracy %s (%s)", settings.name, record["accuracy"], record["status"])


if __name__ == "__main__":
    sys.exit(main())
