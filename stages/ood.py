"""Does a run's model tell images of other data sets from its own? By energy, class probability and gradient norm.

Writes metrics.json, figures/energies.svg and figures/auroc.svg.
"""

import sys
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from mebm.analyses import ood
from mebm.data.images import load_images
from mebm.errors import ParamsError
from mebm.figures.plots import figure, message
from mebm.files import sha256, write_json
from mebm.settings.schema import MADE_SETS
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli

LABELS = {
    "negative_energy": "minus energy",
    "class_probability": "largest class probability",
    "negative_gradient_norm": "minus gradient norm",
}


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "ood",
        __doc__,
        argv,
        checkpoint="checkpoint of the run",
        test="archive of held-out images",
        compared="folder of the sets to compare with, <set>/test.npz each",
    )
    return cli.execute(parser, argv, work, lambda _: ("metrics.json", "figures/energies.svg", "figures/auroc.svg"))


def work(args, settings: AnalysisSettings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.ood
    names = settings.compared if wanted.sets is None else wanted.sets
    if unknown := [name for name in names if name not in settings.compared]:
        known = ", ".join(settings.compared)
        raise ParamsError(f"--sets: the suite compares with no set {unknown[0]!r}, expected some of {known}")
    checkpoint = load_checkpoint(args.checkpoint, device)
    test = load_images(args.test, checkpoint.shape, allow_empty=True)
    conditions = {"bn_stats": wanted.bn_stats, "batch_size": wanted.batch_size}
    record = {"status": "ok", **conditions, "positive": "in-distribution", "seed": wanted.seed}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "test_sha256": sha256(args.test)}
    figures = args.out / "figures"
    if not len(test):
        reason = "no held-out images: all train"
        for name in ("energies", "auroc"):
            message(figures / f"{name}.svg", reason)
        write_json(args.out / "metrics.json", {**record, "status": reason, "provenance": cli.provenance()})
        return

    no_classifier = checkpoint.no_classifier()
    scores = partial(ood.scores, checkpoint.model, classifies=not no_classifier, **conditions)
    inside = ood.choose(test.images, wanted.n_images, "ood held-out", wanted.seed)
    own = scores(inside)
    energies, sets = {}, {}
    for name in (*names, *MADE_SETS):
        images, about = (ood.make(name, inside, wanted.seed), {}) if name in MADE_SETS else read(args.compared / name)
        if about.get("sha256") == record["test_sha256"]:
            sets[name] = {"status": "the run's own held-out images", **about}
            continue
        images = ood.to_shape(ood.choose(images, wanted.n_images, f"ood {name}", wanted.seed), checkpoint.shape)
        found = scores(images)
        energies[name] = -found["negative_energy"]
        told_apart = {key: ood.separation(own[key], found[key]) for key in own}
        sets[name] = {"status": "ok", **about, **ood.spread(energies[name]), "scores": told_apart}
        shown = (f"{key} {value['auroc']}" for key, value in sets[name]["scores"].items())
        cli.log.info("%s: %s: AUROC of %s", settings.name, name, ", ".join(shown))
    others = {name: {key: value for key, value in about.items() if key != "scores"} for name, about in sets.items()}
    record |= {"in_distribution": ood.spread(-own["negative_energy"]), "others": others}
    record |= {key: {name: sets[name]["scores"][key] for name in energies} for key in own}
    record |= {key: {"status": no_classifier} for key in ood.SCORES if key not in own}
    title = f"energies with {wanted.bn_stats} statistics of held-out images of {settings.dataset_name}"
    draw_energies(figures / "energies.svg", title, -own["negative_energy"], energies, sets)
    draw_auroc(figures / "auroc.svg", {name: sets[name]["scores"] for name in energies}, wanted.bn_stats)
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})


def read(folder: Path) -> tuple[Tensor, dict[str, str]]:
    """Images of a set to compare with, and what they are: the held-out part, or the training part if that is empty."""
    path = folder / "test.npz"
    images = load_images(path, allow_empty=True).images
    if not len(images):
        path = folder / "train.npz"
        images = load_images(path).images
    return images, {"part": path.stem, "sha256": sha256(path)}


def draw_energies(path: Path, title: str, own: np.ndarray, energies: dict[str, np.ndarray], sets: dict) -> None:
    """Histograms of energy: one panel per data set, the in-distribution histogram behind it, equal bins in all."""
    low, high = ood.energy_range([own, *energies.values()])
    edges = np.linspace(low, high, 61)
    rows = -(-len(energies) // 2)
    with figure(path, rows, 2, (8, 1 + 1.5 * rows), sharex=True, squeeze=False) as axes:
        for axis, (name, values) in zip(axes.flat, energies.items(), strict=False):
            for these, style in (
                (own, {"color": "0.75"}),
                (values, {"color": "C0", "histtype": "step", "linewidth": 1.5}),
            ):
                these = these[np.isfinite(these)].clip(low, high)
                axis.hist(these, edges, weights=np.full(len(these), 100 / max(len(these), 1)), **style)
            auroc = sets[name]["scores"]["negative_energy"]["auroc"]
            axis.set_title(f"{name}: AUROC {'-' if auroc is None else format(auroc, '.3f')}", fontsize=10, loc="left")
            axis.set(xlim=(low, high), ylabel="images (%)")
        for axis in axes.flat[len(energies) :]:
            axis.axis("off")
        for axis in axes.flat[: len(energies)][-2:]:
            axis.set(xlabel="energy (low = likely)")
            axis.tick_params(labelbottom=True)
        title += " (grey) and of others (blue)\nthe outermost bins hold what lies beyond"
        axes[0, 0].get_figure().suptitle(title, fontsize=10)


def draw_auroc(path: Path, sets: dict[str, dict], bn_stats: str) -> None:
    """One row per data set, one dot per score."""
    with figure(path, size=(7, 1.2 + 0.4 * len(sets))) as axis:
        axis.axvline(0.5, color="0.6", linewidth=1)
        for (key, label), marker, shift in zip(LABELS.items(), "osD", (-0.2, 0, 0.2), strict=True):
            points = [(scores[key]["auroc"], row + shift) for row, scores in enumerate(sets.values()) if key in scores]
            points = [point for point in points if point[0] is not None]
            if points:
                axis.scatter(*zip(*points, strict=True), marker=marker, label=label, zorder=3, clip_on=False)
        words = "0.5: no difference, below: the score is reversed"
        axis.set(xlim=(0, 1), xlabel=f"AUROC with {bn_stats} statistics, held-out images against these\n({words})")
        axis.set(yticks=range(len(sets)), yticklabels=list(sets), ylim=(len(sets) - 0.5, -0.5))
        axis.grid(axis="y", color="0.9")
        if axis.collections:
            axis.get_figure().legend(loc="outside lower center", ncols=3, frameon=False)


if __name__ == "__main__":
    sys.exit(main())
