"""Make new samples: chains from the initial distribution, many SGLD steps, and quality against their number.

Writes samples.npz, the first samples as images/*.png, figures/steps_*.png and curve.svg, curve.csv and metrics.json.
"""

import csv
import io
import sys
from pathlib import Path

from mebm.analyses.generate import Chains
from mebm.data.archives import save_images
from mebm.errors import DataError, MetricError
from mebm.figures.grids import save_grid, save_image
from mebm.figures.plots import figure
from mebm.files import sha256, write_json, write_text
from mebm.measure.quality import QualityMeter
from mebm.method.gaussian import load_init
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "generate",
        __doc__,
        argv,
        checkpoint="checkpoint of the run",
        gaussian="statistics of the initial distribution",
        features="feature network",
        reference="feature statistics of the training images",
    )
    return cli.execute(parser, argv, work, makes)


def makes(settings: AnalysisSettings) -> list[str]:
    """Files that the stage makes."""
    wanted = settings.generate
    singles = [f"images/{_single(index)}" for index in range(min(wanted.png_images, wanted.count))]
    shown = {*range(0, wanted.steps + 1, wanted.grid_every), wanted.steps}
    steps = [f"figures/{_steps(step)}" for step in shown]
    return ["samples.npz", "curve.csv", "metrics.json", "figures/curve.svg", *singles, *steps]


def _single(index: int) -> str:
    return f"{index:05d}.png"


def _steps(step: int) -> str:
    return f"steps_{step:04d}.png"


def work(args, settings: AnalysisSettings) -> None:
    device, wanted, quality = cli.device_for(settings.compute), settings.generate, settings.quality
    checkpoint = load_checkpoint(args.checkpoint, device)
    meter = QualityMeter(args.features, args.reference, device, settings.compute.eval_batch_size)
    if meter.shape != checkpoint.shape:
        of, made = ("x".join(map(str, shape)) for shape in (meter.shape, checkpoint.shape))
        raise DataError(f"{args.reference}: is of images of {of} (CxHxW), but the run makes {made}; use the run's own")
    train = checkpoint.train
    conditions = {
        "batch_size": wanted.batch_size,
        "bn_stats": wanted.bn_stats,
        "step_size": train["step_size"],
        "noise_std": train["noise_std"] if wanted.noise_std is None else wanted.noise_std,
        "grad_bound": wanted.grad_bound,
    }
    init = load_init(train["init"], args.gaussian, checkpoint.shape)
    chains = Chains(
        checkpoint.model, init, wanted.count, wanted.seed, execution=train.get("execution", "auto"), **conditions
    )

    columns, names = settings.plots.grid_columns, (meter.distance, meter.score)
    grids, rows, show = {}, [], cli.progress(f"generate {settings.name}")
    for step in range(wanted.steps + 1):
        if step:
            chains.step()
        if step % wanted.grid_every == 0 or step == wanted.steps:
            grids[step] = chains.images(columns * settings.plots.grid_rows)
        if step % wanted.quality_every == 0 or step == wanted.steps:
            energies, images = chains.energies(wanted.bn_stats).double(), chains.images()
            if not bool(energies.isfinite().all()):
                raise MetricError(f"energies are not finite after {step} steps; the run's weights may have diverged")
            measured = (quality.score_splits, quality.permutation_seed, quality.neighbours)
            record = meter.measure(images, *measured, few=True)
            distance, score = (record[name] for name in names)
            rows.append({"steps": step, "distance": distance, "distance_name": names[0], "score": score})
            rows[-1] |= {"score_name": names[1], "energy": float(energies.mean())}
            rows[-1] |= {name: record[name] for name in ("precision", "recall")}
        if step:
            show(step, wanted.steps, f"energy {rows[-1]['energy']:.3f} after {rows[-1]['steps']} steps")

    # all at the end: a chain that is not finite leaves nothing half written
    save_images(args.out / "samples.npz", images.numpy())
    (args.out / "images").mkdir(exist_ok=True)
    for index, image in enumerate(images[: wanted.png_images]):
        save_image(args.out / "images" / _single(index), image)
    for step, grid in grids.items():
        save_grid(args.out / "figures" / _steps(step), grid, columns)
    draw(rows, args.out / "figures" / "curve.svg")
    write_text(args.out / "curve.csv", _csv(rows))
    best = min((row for row in rows if row["distance"] is not None), key=lambda row: row["distance"], default={})
    own = {"status": "ok", "count": wanted.count, "steps": wanted.steps, "seed": wanted.seed, **conditions}
    own |= {"init": train["init"], "distance_name": names[0], "score_name": names[1]}
    own |= {"best_step": best.get("steps"), "best_distance": best.get("distance")}
    own |= {"energy_mean_of_starts": rows[0]["energy"], "energy_mean": rows[-1]["energy"]}
    own |= {"energy_std": float(energies.std(correction=0)), "checkpoint_sha256": sha256(args.checkpoint)}
    own |= {"gaussian_sha256": sha256(args.gaussian) if train["init"] != "uniform" else None}
    own |= {
        "samples_sha256": sha256(args.out / "samples.npz"),
        "versions": cli.packages(),
        "provenance": cli.provenance(),
    }
    write_json(args.out / "metrics.json", own | record)
    said = record.get("status") or meter.headline(record)
    cli.log.info("%s: chains %d, steps %d, %s", settings.name, wanted.count, wanted.steps, said)


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def draw(rows: list[dict], path: Path) -> None:
    """Distance, score and mean energy against the number of SGLD steps."""
    panels = (
        ("distance", f"{rows[0]['distance_name']} (lower is better)"),
        ("score", f"{rows[0]['score_name'].replace('_', ' ')} (higher is better)"),
        ("energy", "mean energy (low = likely)"),
    )
    with figure(path, 1, 3, (10, 3.2)) as axes:
        for number, (axis, (key, label)) in enumerate(zip(axes, panels, strict=True)):
            points = [(row["steps"], row[key]) for row in rows if row[key] is not None]
            axis.set(xlabel="SGLD steps", ylabel=label)
            if points:
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, color=f"C{number}")
            else:
                axis.set(xticks=[], yticks=[])
                axis.text(0.5, 0.5, "too few samples", ha="center", va="center", transform=axis.transAxes)
            if key == "distance" and points:
                best = min(points, key=lambda point: point[1])
                axis.set_ylim(bottom=0)
                axis.set_title(f"best: {best[1]:.2f} after {best[0]} steps", fontsize="medium")


if __name__ == "__main__":
    sys.exit(main())
