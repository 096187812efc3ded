"""A training run over time: energies, losses, held-out accuracy and quality of the chains after every few epochs.

Writes metrics.json, figures/{curves,quality}.svg, figures/buffer.webp (the chains, animated) and buffer.png (its last
frame), grids/epoch_*.png (the chains, pixel by pixel), epochs.csv and log.csv for `dvc plots`, and tensorboard/.
"""

import sys

import numpy as np
import pandas as pd

from mebm.analyses.curves import (
    EVENTS,
    chain_grid,
    plot_curves,
    plot_quality,
    read_epochs,
    read_log,
    save_animation,
    snapshots,
    write_events,
)
from mebm.data.images import load_images
from mebm.errors import DataError
from mebm.figures.grids import save_grid
from mebm.files import sha256, write_json, write_text
from mebm.measure.quality import QualityMeter
from mebm.settings.stages import CurvesSettings
from mebm.training.watch import saturated
from stages import cli

FINAL = ("energy_pos", "energy_neg", "energy_gap", "grad_norm")  # of the last iteration
COLUMNS = ["epoch", "iteration", "accuracy", "loss", "distance", "score"]


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        *("curves", __doc__, argv),
        log="log.csv of the run",
        epochs="epochs.csv of the run",
        snapshots="folder of its chains after some epochs",
        features="feature network",
        reference="feature statistics of the training images",
    )
    figures = (f"figures/{name}" for name in ("curves.svg", "quality.svg", "buffer.webp", "buffer.png"))
    names = ["metrics.json", "epochs.csv", "log.csv", f"tensorboard/{EVENTS}", *figures]
    return cli.execute(parser, argv, work, lambda _: names)


def work(args, settings: CurvesSettings) -> None:
    log, looks, quality, plots = read_log(args.log), read_epochs(args.epochs), settings.quality, settings.plots
    device = cli.device_for(settings.compute)
    meter = QualityMeter(args.features, args.reference, device, settings.compute.eval_batch_size)
    distance, score = meter.distance, meter.score
    record = {"status": "ok", "warning": None, "bn_stats": "running", **meter.trust()}
    record |= {"score_splits": quality.score_splits, "permutation_seed": quality.permutation_seed}
    record |= {f"{name}_sha256": sha256(getattr(args, name)) for name in ("log", "epochs", "features", "reference")}
    grids, shown, measured, progress = {}, {}, [], cli.progress(f"{settings.name} snapshots")
    archives = snapshots(args.snapshots)
    for epoch, path in archives.items():
        images = load_images(path, meter.shape).images
        grids[epoch] = chain_grid(images)
        shown[path.stem] = images[: plots.grid_columns * plots.grid_rows]
        row = {"epoch": epoch}
        if len(images) < max(2, quality.score_splits):
            record["status"] = f"no quality: {len(images)} images a snapshot; raise train.snapshot_images"
        else:
            found = meter.measure(images, quality.score_splits, quality.permutation_seed)
            row |= {"distance": found[distance], "score": found[score]}
            record |= {"warning": found["warning"], "n_images": len(images)}
        measured.append(row)
        progress(len(measured), len(archives), f"epoch {epoch}")
    start = pd.DataFrame([{"epoch": 0, "iteration": 0}])  # training notes no row before it starts
    looks = pd.concat([start, looks[looks["epoch"] > 0]])
    if unknown := set(archives) - set(looks["epoch"]):
        raise DataError(f"{args.epochs}: lacks the epoch {min(unknown)} of {args.snapshots}; train the run again")
    table = looks.merge(pd.DataFrame(measured), how="left", on="epoch").reindex(columns=COLUMNS)
    if not np.isfinite(log[list(FINAL)].iloc[-1].astype(float)).all():
        raise DataError(f"{args.log}: the last row's values are not finite: the run has diverged")
    last = log.iloc[-1]
    if warning := saturated(last[last.notna()].to_dict()):
        record["warning"] = "; ".join(filter(None, (record["warning"], warning)))
    record |= _numbers(log, table, {"accuracy": "accuracy", "loss": "test_loss", "distance": distance, "score": score})

    plot_curves(log, args.out / "figures" / "curves.svg")
    plot_quality(table, distance, score.replace("_", " "), args.out / "figures" / "quality.svg")
    for name, images in shown.items():
        save_grid(args.out / "grids" / f"{name}.png", images, plots.grid_columns)
    save_animation(args.out / "figures" / "buffer.webp", grids, args.out / "figures" / "buffer.png")
    write_text(args.out / "epochs.csv", table.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
    write_text(args.out / "log.csv", args.log.read_text(encoding="utf-8"))  # DVC plots what its stage makes
    write_events(args.out / "tensorboard", log, table, grids)
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})


def _numbers(log: pd.DataFrame, table: pd.DataFrame, names: dict[str, str]) -> dict:
    """Values at the end, and the best ones with their epoch; null where there are none."""
    final = {name: float(log[name].iloc[-1]) for name in FINAL}
    for name in ("x_neg_saturated", "x_pos_saturated"):
        final[name] = None if np.isnan(log[name].iloc[-1]) else float(log[name].iloc[-1])
    best = {}
    for column, name in names.items():
        known = table.loc[table[column].notna()].set_index("epoch")[column]
        final[name] = float(known.iloc[-1]) if len(known) else None
        at = (known.idxmin() if column in ("loss", "distance") else known.idxmax()) if len(known) else None
        best[name] = {"value": None if at is None else float(known[at]), "epoch": None if at is None else int(at)}
    return {"iterations": int(log["iteration"].iloc[-1]) + 1, "final": final, "best": best}


if __name__ == "__main__":
    sys.exit(main())
