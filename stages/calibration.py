"""Are a run's class probabilities right? Calibration errors and a reliability diagram, also with a fitted temperature.

Writes metrics.json and figures/reliability.svg.
"""

import sys
from pathlib import Path

import numpy as np

from mebm.analyses.calibration import fit_temperature, reliability, scores
from mebm.data.images import load_images
from mebm.data.split import digests_of, split_stratified
from mebm.errors import DataError, MetricError
from mebm.figures.plots import figure, message
from mebm.files import sha256, write_json
from mebm.measure.evaluation import score
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli

TITLES = {"before": "as trained", "after": "with a temperature"}


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "calibration", __doc__, argv, checkpoint="checkpoint of the run", test="archive of held-out images"
    )
    return cli.execute(parser, argv, work, lambda _: ("metrics.json", "figures/reliability.svg"))


def work(args, settings: AnalysisSettings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.calibration
    checkpoint = load_checkpoint(args.checkpoint, device)
    test = load_images(args.test, checkpoint.shape, allow_empty=True)
    record = {"status": "ok", "bn_stats": "running", "n_bins": wanted.n_bins, "seed": wanted.seed}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "test_sha256": sha256(args.test)}
    path = args.out / "figures" / "reliability.svg"
    if reason := checkpoint.no_classifier(test):
        message(path, reason)
        write_json(args.out / "metrics.json", {**record, "status": reason, "provenance": cli.provenance()})
        return
    logits = score(checkpoint.model, test.images, settings.compute.eval_batch_size).logits.numpy()
    labels = test.labels.numpy()
    scored, fitted = split(labels, digests_of(test.images.cpu().numpy()), wanted.fit_share, wanted.seed)
    record |= {"n_images": len(labels), "n_fitted": len(fitted), "n_scored": len(scored)}
    record |= {"all": scores(logits, labels, wanted.n_bins), "temperature_status": "ok"}
    sets = {"before": logits[scored]}
    try:  # on other images than those whose errors are compared
        record["temperature"] = fit_temperature(logits[fitted], labels[fitted])
        sets["after"] = logits[scored] / record["temperature"]
    except MetricError as error:
        record |= {"temperature": None, "temperature_status": str(error)}
    for name in TITLES:
        record[name] = scores(sets[name], labels[scored], wanted.n_bins) if name in sets else None
    draw(path, {name: reliability(values, labels[scored], wanted.n_bins) for name, values in sets.items()}, record)
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})
    errors = ", ".join(f"{TITLES[name]} {record[name]['ece']:.4f}" for name in sets)
    cli.log.info("%s: ECE of %d images: %s", settings.name, len(scored), errors)


def split(labels: np.ndarray, digests: np.ndarray, fit_share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the images to score and of those to fit on, by class where every class has enough for both.

    digests: as `digests_of` gives them; equal images are scored or fitted on together.
    """
    n_fitted = min(max(round(fit_share * len(labels)), 1), len(labels) - 1)
    try:
        return split_stratified(labels, digests, n_fitted, seed)
    except DataError:
        return split_stratified(None, digests, n_fitted, seed)


def draw(path: Path, curves: dict[str, dict[str, np.ndarray]], record: dict) -> None:
    """Accuracy against confidence in bins of equal width, above the share of images in each bin."""
    n_bins = record["n_bins"]
    options = {"sharex": True, "sharey": "row", "squeeze": False, "height_ratios": [3, 1]}
    with figure(path, 2, len(curves), (4 * len(curves), 5), **options) as axes:
        for (above, below), (name, bins) in zip(axes.T, curves.items(), strict=True):
            left, width = bins["bin"] / n_bins, 1 / n_bins
            style = {"align": "edge", "edgecolor": "white", "linewidth": 0.5}
            above.bar(left, bins["accuracy"], width, color="C0", alpha=0.7, **style)
            above.plot([0, 1], [0, 1], color="0.4", linewidth=1, linestyle="--")
            below.bar(left, 100 * bins["share"], width, color="0.6", **style)
            title = TITLES[name] if name == "before" else f"temperature {record['temperature']:.3g}"
            above.set(title=f"{title}: ECE {100 * record[name]['ece']:.2f} %", xlim=(0, 1), ylim=(0, 1))
            below.set(xlabel="confidence")
        axes[0, 0].set(ylabel="accuracy")
        axes[1, 0].set(ylabel="images (%)")


if __name__ == "__main__":
    sys.exit(main())
