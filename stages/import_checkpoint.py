"""Turn a checkpoint into a run that enters the pipeline at `sample`.

The checkpoint is one of the public release, or one of this project, such as another run's, a folder that
`python -m mebm export` wrote, or the folder of another run's snapshots: then the run has weights of that one, and the
section `weights` says which. Writes checkpoint.pt, provenance.json, which says how weights were chosen, and a cost.json
without numbers.
"""

import sys
from pathlib import Path

from mebm.data.images import load_images
from mebm.files import write_json
from mebm.settings.stages import ImportSettings
from mebm.training.checkpoint import save_checkpoint
from mebm.training.choice import Maker
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("import_checkpoint", __doc__)
    text = "checkpoint of the release or of this project, an exported folder, or a folder of snapshots"
    parser.add_argument("--checkpoint", type=Path, required=True, help=text)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--features", type=Path, required=True, help="feature network, by which quality chooses")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work, lambda _: ["checkpoint.pt", "provenance.json", "cost.json"])


def work(args, settings: ImportSettings) -> None:
    data, device = load_images(args.train), cli.device_for(settings.compute)
    batch_size = settings.compute.eval_batch_size
    maker = Maker(settings.weights, settings.train, data, args.features, device, batch_size)
    checkpoint = maker.make(args.checkpoint)
    save_checkpoint(args.out / "checkpoint.pt", checkpoint)
    made_of = {
        "checkpoint": str(args.checkpoint),
        "weights": settings.weights.model_dump(),
        "choice": checkpoint.choice,
    }
    write_json(args.out / "provenance.json", cli.provenance() | made_of | cli.packages())
    write_json(args.out / "cost.json", dict.fromkeys(("iterations", "flops", "hours")))
    cli.log.info("%s: %d chains from %s", settings.name, len(checkpoint.replay_buffer), args.checkpoint)
    if checkpoint.choice:
        cli.log.info(
            "%s: weights after epoch %d of %d", settings.name, *map(checkpoint.choice.get, ("epoch", "epochs"))
        )


if __name__ == "__main__":
    sys.exit(main())
