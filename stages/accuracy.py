"""Score a run's classifier on held-out images, BatchNorm with running statistics: accuracy.json."""

import sys
from pathlib import Path

from mebm.data.images import load_images
from mebm.files import sha256, write_json
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.evaluation import score
from mebm.settings.stages import AccuracySettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("accuracy", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the run")
    parser.add_argument("--test", type=Path, required=True, help="archive of held-out images")
    parser.add_argument("--out", type=Path, required=True, help="record to write")
    return cli.execute(parser, argv, work)


def work(args, settings: AccuracySettings) -> None:
    checkpoint = load_checkpoint(args.checkpoint, cli.device_for(settings.compute))
    test = load_images(args.test, checkpoint.shape, allow_empty=True)
    record = {"accuracy": None, "loss": None, "status": checkpoint.no_classifier(test) or "ok"}
    if record["status"] == "ok":
        scores = score(checkpoint.model, test.images, settings.compute.eval_batch_size)
        record["accuracy"], record["loss"] = accuracy_and_loss(scores.logits, test.labels)
    record |= {"n_images": len(test), "bn_stats": "running", "seed": checkpoint.train["seed"]}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "test_sha256": sha256(args.test)}
    record |= {"choice": checkpoint.choice} if checkpoint.choice else {}
    write_json(args.out, {**record, "versions": cli.packages(), "provenance": cli.provenance()})
    cli.log.info("%s: accuracy %s (%s)", settings.name, record["accuracy"], record["status"])


if __name__ == "__main__":
    sys.exit(main())
