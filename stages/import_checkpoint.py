"""Turn a checkpoint into a run that enters the pipeline at `sample`.

The checkpoint is one of the public release, or one of this project, such as another run's: then the run has that one's
weights or its averaged ones, and the section `weights` says which. Writes checkpoint.pt, and a cost.json without
numbers.
"""

import sys
from pathlib import Path

from mebm.data.images import load_images
from mebm.errors import CheckpointError
from mebm.files import write_json
from mebm.settings.stages import ImportSettings
from mebm.training.averages import settled, with_average
from mebm.training.checkpoint import Checkpoint, is_ours, load_checkpoint, save_checkpoint
from mebm.training.release import read_release
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("import_checkpoint", __doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, help="checkpoint of the release or of this project")
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work, lambda _: ["checkpoint.pt", "cost.json"])


def work(args, settings: ImportSettings) -> None:
    data = load_images(args.train)
    if is_ours(args.checkpoint):
        checkpoint = _ours(args, settings, data)
    else:
        checkpoint = read_release(args.checkpoint, settings.train.model_dump(), data.shape, data.n_classes)
    save_checkpoint(args.out / "checkpoint.pt", checkpoint)
    write_json(args.out / "cost.json", dict.fromkeys(("iterations", "flops", "hours")))
    cli.log.info("%s: %d chains from %s", settings.name, len(checkpoint.replay_buffer), args.checkpoint)


def _ours(args, settings: ImportSettings, data) -> Checkpoint:
    """The run of a checkpoint of this project with the weights that `settings` ask for."""
    path, wanted = args.checkpoint, settings.weights
    checkpoint = load_checkpoint(path, cli.device_for(settings.compute))
    if (checkpoint.shape, checkpoint.n_classes) != (data.shape, data.n_classes):
        raise CheckpointError(f"{path}: is of another data set than {settings.dataset_name}; set the run's own")
    for key, value in settings.train.model_dump().items():
        if checkpoint.train[key] != value:
            raise CheckpointError(
                f"{path}: was trained with train.{key} {checkpoint.train[key]!r}, but {settings.name} has {value!r}; "
                "give it the section `train` of the run that it is made from"
            )
    try:
        if wanted.ema_decay is not None:
            checkpoint = with_average(checkpoint, wanted.ema_decay)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    checkpoint = settled(checkpoint, wanted, data)
    checkpoint.averages = {}
    return checkpoint


if __name__ == "__main__":
    sys.exit(main())
