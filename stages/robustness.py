"""How robust is a run's classifier? Accuracy under attack by projected gradient descent, against its radius.

Writes metrics.json and figures/accuracy.svg.
"""

import sys

from mebm.analyses.robustness import UNITS, survivors
from mebm.data.images import load_images
from mebm.figures.plots import figure, message
from mebm.files import sha256, write_json
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli

LABELS = {"linf": "L-infinity radius (grey levels of 255)", "l2": "L2 radius (units of [0, 1] pixels)"}


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "robustness", __doc__, argv, checkpoint="checkpoint of the run", test="archive of held-out images"
    )
    return cli.execute(parser, argv, work, lambda _: ("metrics.json", "figures/accuracy.svg"))


def work(args, settings: AnalysisSettings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.robustness
    checkpoint = load_checkpoint(args.checkpoint, device)
    test = load_images(args.test, checkpoint.shape, allow_empty=True)
    attack = {key: getattr(wanted, key) for key in ("steps", "step_ratio", "restarts", "seed")}
    record = {"status": "ok", "bn_stats": "running", **attack}
    record |= {"clean_accuracy": None, "n_images": min(len(test), wanted.n_images)}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "test_sha256": sha256(args.test)}
    path = args.out / "figures" / "accuracy.svg"
    if reason := checkpoint.no_classifier(test):
        message(path, reason)
        write_json(args.out / "metrics.json", {**record, "status": reason, "provenance": cli.provenance()})
        return
    images, labels = test.images[: wanted.n_images], test.labels[: wanted.n_images]
    curves, batch_size = {}, settings.compute.eval_batch_size
    for norm in UNITS:
        radii, curves[norm] = getattr(wanted, f"radii_{norm}"), {}
        for radius, correct in survivors(
            checkpoint.model, images, labels, norm, radii, **attack, batch_size=batch_size
        ):
            curves[norm][radius] = float(correct.double().mean())
            cli.log.info("%s: %s radius %g: accuracy %.4f", settings.name, norm, radius, curves[norm][radius])
        record[norm] = [{"radius": radius, "accuracy": curves[norm][radius]} for radius in radii]
        record["clean_accuracy"] = curves[norm][0.0]
    with figure(path, 1, 2, (8, 3.5), sharey=True) as axes:
        for axis, (norm, curve) in zip(axes, curves.items(), strict=True):
            axis.plot(list(curve), [100 * accuracy for accuracy in curve.values()], marker="o", clip_on=False, zorder=3)
            axis.set(xlabel=LABELS[norm], ylim=(0, 100), xlim=(0, None if len(curve) > 1 else 1))
            axis.grid(color="0.9")
        axes[0].set(ylabel="accuracy (%)")
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})


if __name__ == "__main__":
    sys.exit(main())
