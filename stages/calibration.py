"""How far a run's class probabilities hold: calibration errors and a reliability diagram, before and after a temperature.

Writes metrics.json and figures/reliability.svg.
"""

import sys
from pathlib import Path

from mebm.calibration import fit_temperature, reliability, scores
from mebm.checkpoint import load_checkpoint
from mebm.data import load_images
from mebm.datasets import split_stratified
from mebm.errors import DataError
from mebm.evaluation import score
from mebm.files import sha256, write_json
from mebm.plots import figure, message
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "calibration", __doc__, argv, checkpoint="checkpoint of the run", test="archive of held-out images"
    )
    return cli.execute(parser, argv, work)


def work(args, settings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.calibration
    checkpoint = load_checkpoint(args.checkpoint, device)
    test = load_images(args.test, checkpoint.shape, allow_empty=True)
    record = {"status": "ok", "bn_stats": "running", "n_bins": wanted.n_bins, "seed": wanted.seed}
    record |= {"checkpoint_sha256": sha256(args.checkpoint), "test_sha256": sha256(args.test)}
    path = args.out / "figures" / "reliability.svg"
    if reason := checkpoint.no_classifier(test):
        write_json(args.out / "metrics.json", record | {"status": reason})
        message(path, reason)
        return
    logits = score(checkpoint.model, test.images, settings.compute.eval_batch_size).logits.numpy()
    labels = test.labels.numpy()
    scored, fitted = split_stratified(labels, len(labels), round(wanted.fit_share * len(labels)), wanted.seed)
    temperature = fit_temperature(logits[fitted], labels[fitted])
    record |= {"all": scores(logits, labels, wanted.n_bins), "n_images": len(labels), "temperature": temperature}
    sets = {"before": logits[scored], "after": logits[scored] / temperature}
    record |= {name: scores(values, labels[scored], wanted.n_bins) for name, values in sets.items()}
    write_json(args.out / "metrics.json", record | {"n_fitted": len(fitted), "n_scored": len(scored)})
    with figure(path, 1, 2, (8, 4), sharey=True) as axes:
        for axis, (name, values) in zip(axes, sets.items(), strict=True):
            bins = reliability(values, labels[scored], wanted.n_bins)
            axis.plot([0, 1], [0, 1], color="0.7", linewidth=1)
            axis.bar(bins["confidence"], bins["accuracy"], width=0.8 / wanted.n_bins, color="C0")
            error = 100 * record[name]["ece"]
            title = "as trained" if name == "before" else f"temperature {temperature:.2f}"
            axis.set(xlabel="confidence", xlim=(0, 1), ylim=(0, 1), title=f"{title}: ECE {error:.2f} %")
        axes[0].set(ylabel="accuracy")
    cli.log.info(
        "%s: ECE %.4f, after temperature %.2f: %.4f",
        settings.name,
        record["before"]["ece"],
        temperature,
        record["after"]["ece"],
    )


if __name__ == "__main__":
    sys.exit(main())
