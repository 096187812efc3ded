"""Show the replay buffer, ranked: by predicted class, and the best and worst images by energy and by probability.

Writes metrics.json and figures/{by_class,best_by_energy,worst_by_energy,best_by_probability,worst_by_probability}.png.
"""

import sys

from mebm.analyses.pictures import (
    class_shares,
    class_summary,
    draw_groups,
    draw_text,
    energy_summary,
    ranked,
    ranked_by_class,
)
from mebm.data.images import unit_to_bytes
from mebm.files import sha256, write_json
from mebm.measure.evaluation import score
from mebm.measure.selection import classify
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli

SHOWN = 100  # classes in a picture at most: those with most images
ORDERS = {  # picture: the value that ranks, whether the largest comes first, and in words
    "best_by_energy": ("energy", False, "lowest energy first"),
    "worst_by_energy": ("energy", True, "highest energy first"),
    "best_by_probability": ("probability", True, "largest class probability first"),
    "worst_by_probability": ("probability", False, "smallest class probability first"),
}


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis("pictures", __doc__, argv, checkpoint="checkpoint of the run")
    names = ["metrics.json", *(f"figures/{name}.png" for name in ("by_class", *ORDERS))]
    return cli.execute(parser, argv, work, lambda _: names)


def work(args, settings: AnalysisSettings) -> None:
    wanted, figures = settings.pictures, args.out / "figures"
    checkpoint = load_checkpoint(args.checkpoint, cli.device_for(settings.compute))
    images, n_classes, reason = (
        unit_to_bytes(checkpoint.replay_buffer),
        checkpoint.n_classes,
        checkpoint.no_classifier(),
    )
    scores = score(checkpoint.model, checkpoint.replay_buffer, settings.compute.eval_batch_size)
    record = {"status": "ok", "n_images": len(images), "bn_stats": "running", "n_classes": n_classes}
    record |= {"per_class": wanted.per_class, "ranked": wanted.ranked, "checkpoint_sha256": sha256(args.checkpoint)}
    record |= energy_summary(scores.energy) | {"classes": {"status": reason or "ok"}}
    values = {"energy": scores.energy}
    if not reason:
        predicted, values["probability"] = classify(scores.logits)
        shares = class_shares(predicted, n_classes)
        record["classes"] |= class_summary(shares) | {"mean_probability": float(values["probability"].mean())}
        shown = ranked(shares, SHOWN, largest=True).sort().values.tolist()
        some = f"{SHOWN} largest of {n_classes} classes: " if n_classes > SHOWN else ""

    for name, (key, largest, words) in ORDERS.items():
        if key not in values:
            draw_text(figures / f"{name}.png", reason)
            continue
        if reason:  # one block of the whole buffer, as large as that of ten classes
            rows = ranked(values[key], 10 * wanted.ranked, largest=largest).split(wanted.ranked)
            heads, title = [str(1 + row * wanted.ranked) for row in range(len(rows))], f"the whole buffer, {words}"
        else:
            rows = ranked_by_class(values[key], predicted, n_classes, wanted.ranked, largest=largest)
            rows, heads, title = [rows[i] for i in shown], [str(i) for i in shown], f"{some}predicted class, {words}"
        notes = [f"{values[key][row[0]]:.4f} to {values[key][row[-1]]:.4f}" if len(row) else "" for row in rows]
        draw_groups(figures / f"{name}.png", title, [images[row] for row in rows], heads, notes)
    if reason:
        draw_text(figures / "by_class.png", reason)
    else:
        columns = ranked_by_class(values["probability"], predicted, n_classes, wanted.per_class, largest=True)
        heads = [f"{i}\n{100 * shares[i]:.0f} %" for i in shown]
        title = f"{some}predicted class and its share of the buffer, most probable first"
        draw_groups(figures / "by_class.png", title, [images[columns[i]] for i in shown], heads, across=True)
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})
    said = reason
    if not reason:
        filled, entropy = n_classes - record["classes"]["empty_classes"], record["classes"]["class_entropy"]
        said = f"{filled} of {n_classes} classes, entropy {entropy:.3f}"
    cli.log.info("%s: %d images, mean energy %.3f, %s", settings.name, len(images), record["energy_mean"], said)


if __name__ == "__main__":
    sys.exit(main())
