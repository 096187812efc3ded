"""Train a run: checkpoint.pt, log.csv with the curves, and grids/ with pictures of the buffer."""

import csv
import sys
import time
from pathlib import Path

from mebm.checkpoint import Checkpoint, save_checkpoint
from mebm.cost import estimate
from mebm.data import load_images, unit_to_bytes
from mebm.errors import ParamsError
from mebm.files import replacing, write_json
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
    cost, hours = estimate(settings.train, data.shape, len(data), data.labels is not None, device)
    message = "%s: %d iterations, %.3g PFLOP, about %.2g hours on %s"
    cli.log.info(message, settings.name, cost.iterations, cost.flops / 1e15, hours, device)
    limit = settings.compute.cpu_hours
    if device.type == "cpu" and limit is not None and hours > limit:
        raise ParamsError(
            f"{settings.name}: training would take about {hours:.3g} hours on this CPU, more than compute.cpu_hours "
            f"({limit:g}); use a GPU, or set compute.cpu_hours to null to train here all the same"
        )
    start = time.monotonic()
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
    # Beside the log and not among the artifacts: a time is never the same twice.
    write_json(args.logs / f"time.{settings.name}.json", {"hours": (time.monotonic() - start) / 3600})


if __name__ == "__main__":
    sys.exit(main())
