"""Turn a checkpoint of the public release into a run that enters the pipeline at `sample`.

Writes checkpoint.pt, and a cost.json without numbers, since nothing is known of the training.
"""

import sys
from pathlib import Path

from mebm.data.images import load_images
from mebm.files import write_json
from mebm.settings.stages import ImportSettings
from mebm.training.checkpoint import save_checkpoint
from mebm.training.release import read_release
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("import_checkpoint", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the public release")
    parser.add_argument("--train", type=Path, required=True, help="archive of training images, for shape and classes")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work, lambda _: ["checkpoint.pt", "cost.json"])


def work(args, settings: ImportSettings) -> None:
    data = load_images(args.train)
    checkpoint = read_release(args.checkpoint, settings.train.model_dump(), data.shape, data.n_classes)
    save_checkpoint(args.out / "checkpoint.pt", checkpoint)
    write_json(args.out / "cost.json", dict.fromkeys(("iterations", "flops", "hours")))
    cli.log.info("%s: %d chains from %s", settings.name, len(checkpoint.replay_buffer), args.checkpoint)


if __name__ == "__main__":
    sys.exit(main())
