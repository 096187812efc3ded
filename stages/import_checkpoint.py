"""Turn a checkpoint into a run that enters the pipeline at `sample`.

The checkpoint is one of the public release, or one of this project, such as another run's or a folder that
`python -m mebm export` wrote: then the run has that one's weights or its averaged ones, and the section `weights` says
which. Writes checkpoint.pt, and a cost.json without numbers.
"""

import sys
from pathlib import Path

from mebm.data.images import load_images
from mebm.files import write_json
from mebm.settings.stages import ImportSettings
from mebm.training.averages import settled, with_average
from mebm.training.checkpoint import save_checkpoint
from mebm.training.reading import read_any
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("import_checkpoint", __doc__)
    parser.add_argument(
        "--checkpoint",
        type=Path,
        required=True,
        help="checkpoint of the release or of this project, or an exported folder",
    )
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work, lambda _: ["checkpoint.pt", "cost.json"])


def work(args, settings: ImportSettings) -> None:
    data, wanted = load_images(args.train), settings.weights
    device = cli.device_for(settings.compute)
    checkpoint, ours = read_any(args.checkpoint, settings.train, data.shape, data.n_classes, device)
    if ours:
        if wanted.ema_decay is not None:
            checkpoint = with_average(checkpoint, wanted.ema_decay, args.checkpoint)
        checkpoint = settled(checkpoint, wanted, data)
        checkpoint.averages = {}
    save_checkpoint(args.out / "checkpoint.pt", checkpoint)
    write_json(args.out / "cost.json", dict.fromkeys(("iterations", "flops", "hours")))
    cli.log.info("%s: %d chains from %s", settings.name, len(checkpoint.replay_buffer), args.checkpoint)


if __name__ == "__main__":
    sys.exit(main())
