"""How a run's features arrange data, replay buffer and initial distribution: t-SNE, numbers beside it, and energies.

Writes metrics.json, figures/sources.svg, figures/classes.svg and figures/energies.svg.
"""

import math
import sys

import numpy as np
import torch

from mebm.analyses.embedding import GROUPS, intrusion, layout, mixing, scatter, separability, violins
from mebm.data.images import load_images
from mebm.errors import MetricError, ParamsError
from mebm.figures.plots import figure, message
from mebm.files import sha256, write_json
from mebm.measure.evaluation import score
from mebm.measure.selection import classify
from mebm.method.gaussian import load_init
from mebm.seeds import choice, generator_for
from mebm.settings.stages import AnalysisSettings
from mebm.training.checkpoint import load_checkpoint
from stages import cli


def main(argv: list[str] | None = None) -> int:
    parser = cli.analysis(
        "embedding",
        __doc__,
        argv,
        checkpoint="checkpoint of the run",
        train="archive of training images",
        gaussian="statistics of the initial distribution",
    )
    figures = [f"figures/{name}.svg" for name in ("sources", "classes", "energies")]
    return cli.execute(parser, argv, work, lambda _: ["metrics.json", *figures])


def work(args, settings: AnalysisSettings) -> None:
    device, wanted = cli.device_for(settings.compute), settings.embedding
    checkpoint = load_checkpoint(args.checkpoint, device)
    model, chains = checkpoint.model, checkpoint.replay_buffer
    train = load_images(args.train, checkpoint.shape)
    n = min(wanted.n_images, len(train), len(chains))  # as many of each, so that shares among neighbours compare
    for key in ("perplexity", "n_neighbours"):
        if getattr(wanted, key) >= n:
            raise ParamsError(
                f"embedding.{key}: is {getattr(wanted, key)}, expected less than the {n} images of a source"
            )
    k, seed = wanted.n_neighbours, wanted.seed
    picked, kept = choice(len(train), n, "embedding: data", seed), choice(len(chains), n, "embedding: buffer", seed)
    init = load_init(checkpoint.train["init"], args.gaussian, checkpoint.shape).to("cpu")
    draws = init.sample(n, generator_for("embedding: initial", seed))
    images = {"data": train.images[picked], "buffer": chains[kept], "initial": draws}
    # Batches about equal: the statistics of a last one of few images would set these apart.
    batch_size = math.ceil(n / math.ceil(n / wanted.batch_size))
    scores = {name: score(model, images[name], batch_size, bn_stats="batch") for name in GROUPS}
    for name, found in scores.items():
        if not bool(torch.isfinite(found.features).all() and torch.isfinite(found.energy).all()):
            raise MetricError(f"energies or features of {GROUPS[name]} are not finite: the run has diverged")
    data, buffer, _ = features = [scores[name].features.double().numpy() for name in GROUPS]
    groups = np.arange(len(GROUPS)).repeat(n)

    record = {"status": "ok", "bn_stats": "batch", "batch_size": batch_size, "n_images": n, "n_neighbours": k}
    record |= {"perplexity": wanted.perplexity, "seed": seed}
    for name in ("checkpoint", "train", "gaussian"):
        uses = name != "gaussian" or checkpoint.train["init"] != "uniform"
        record[f"{name}_sha256"] = sha256(getattr(args, name)) if uses else None
    shares = mixing(np.concatenate(features), groups, list(GROUPS).index("buffer"), k)
    record["sources"] = {f"buffer_near_{name}": float(share) for name, share in zip(GROUPS, shares, strict=True)}
    record["sources"] |= separability(np.concatenate(features), groups, k)
    record["classes"], record["intrusion"] = {"status": "no labels"}, {"status": "no labels"}
    if train.labels is not None:
        labels = train.labels[picked].numpy()
        record["classes"] = {"status": "ok", "n_classes": train.n_classes, **separability(data, labels, k)}
        record["intrusion"] = {"status": checkpoint.no_classifier(train) or "ok"}
    if record["intrusion"]["status"] == "ok":
        # Classes are predicted as for sampling and accuracy: with running statistics.
        predicted = classify(score(model, images["buffer"], batch_size).logits)[0].numpy()
        record["intrusion"] |= {
            "buffer": intrusion(data, labels, k, buffer, predicted),
            "data": intrusion(data, labels, k),
        }
    record["energy"] = {
        name: {"mean": float(found.energy.double().mean()), "std": float(found.energy.double().std())}
        for name, found in scores.items()
    }

    # before the first figure: what cannot be laid out leaves nothing half written
    by_source = layout(np.concatenate(features), wanted.perplexity, seed)
    by_class = None if train.labels is None else layout(data, wanted.perplexity, seed)

    folder = args.out / "figures"
    with figure(folder / "energies.svg", size=(6, 4)) as axes:
        violins(axes, {title: scores[name].energy.numpy() for name, title in GROUPS.items()})
    with figure(folder / "sources.svg", size=(7, 5)) as axes:
        scatter(axes, by_source, groups, list(GROUPS.values()))
        found = ", ".join(f"{_percent(share)} {name}" for name, share in zip(GROUPS, shares, strict=True))
        axes.set_title(f"t-SNE of features, by source\nnearest {k} of the buffer: {found}", fontsize=10)
    if by_class is None:
        message(folder / "classes.svg", "the data set has no labels")
    else:
        with figure(folder / "classes.svg", size=(6.5, 5)) as axes:
            names = [f"class {label}" for label in range(train.n_classes)]
            scatter(axes, by_class, labels, names)
            right = _percent(record["classes"]["knn_accuracy"])
            title = f"t-SNE of features, data by class\n{right} have the class of most of their nearest {k}"
            axes.set_title(title, fontsize=10)
    write_json(args.out / "metrics.json", {**record, "provenance": cli.provenance()})
    cli.log.info("%s: %s, energies %s", settings.name, record["sources"], record["energy"])


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


if __name__ == "__main__":
    sys.exit(main())
