"""Train a run: checkpoint.pt, log.csv with the curves, and grids/ with pictures of the buffer."""

import csv
import sys
from pathlib import Path

from mebm.checkpoint import Checkpoint, save_checkpoint
from mebm.data import load_images, unit_to_bytes
from mebm.files import replacing
from mebm.gaussian import load_init
from mebm.images import save_grid
from mebm.training import LOG_COLUMNS, train_model
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("train", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--gaussian", type=Path, required=True, help="statistics of the initial distribution")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    device = cli.device_for(settings.compute)
    data = load_images(args.train)
    init = load_init(settings.train.init, args.gaussian, data.shape)
    show = cli.progress(settings.name)
    args.out.mkdir(parents=True, exist_ok=True)
    with replacing(args.out / "log.csv") as temporary, open(temporary, "w", newline="") as file:
        table = csv.DictWriter(file, LOG_COLUMNS, lineterminator="\n")
        table.writeheader()

        def on_log(row: dict, total: int) -> None:
            table.writerow({key: f"{value:.6g}" for key, value in row.items()})
            file.flush()
            show(int(row["iteration"]) + 1, total, f"energy gap {row['energy_gap']:+.3f}")

        def on_grid(epoch: int, chains) -> None:
            save_grid(args.out / "grids" / f"epoch_{epoch:04d}.png", unit_to_bytes(chains.cpu()), 10)

        trained = train_model(settings.train, data, init, device, on_log, on_grid)
    save_checkpoint(
        args.out / "checkpoint.pt",
        Checkpoint(
            trained.model,
            trained.buffer.images,
            settings.train.model_dump(),
            data.shape,
            data.n_classes,
            trained.iterations,
        ),
    )


if __name__ == "__main__":
    sys.exit(main())
