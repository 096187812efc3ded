"""The model card of an exported run (docs/sharing.md, Weights for others); its numbers come from the run's files."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mebm.errors import DataError
from mebm.files import read_json
from mebm.show.formats import markdown
from mebm.show.summaries import METRICS, Accuracy, Quality, in_print, label

HIDDEN = ("accuracy", "loss")  # not of the images that a run makes


@dataclass(frozen=True)
class Model:
    """What a card says besides numbers. title: the data set's name in print; source: that of its module.

    licence: of the weights, by its identifier on the Hub; weights: which of the training's they are, in words, empty
    where that is not known; iterations: of the training, 0 where it is not known.
    """

    name: str
    method: str
    title: str
    source: str
    data_licence: str
    licence: str
    weights: str
    iterations: int
    evaluate_on: str


def measured(folder: Path, checkpoint_sha256: str) -> dict[str, dict[str, Any]]:
    """The records of a run in its folder of results, by what was measured: protocols of images, and `accuracy`.

    Raises DataError where a file is missing or damaged, or of another checkpoint.
    """
    quality = read_json(folder / "quality.json", Quality)
    records = {**quality, "accuracy": read_json(folder / "accuracy.json", Accuracy)}
    for name, record in records.items():
        if record.get("checkpoint_sha256") != checkpoint_sha256:
            path = folder / ("accuracy.json" if name == "accuracy" else "quality.json")
            raise DataError(f"{path}: was measured with another checkpoint than the run has now; run `snakemake` first")
    return records


def model_card(model: Model, records: dict[str, dict[str, Any]]) -> str:
    """The text of a card: front matter that the Hub reads, and the same numbers as a table. records: as `measured`."""
    found = _metrics(records, model.evaluate_on)
    head: dict[str, Any] = {
        "license": model.licence,
        "library_name": "mebm",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["energy-based-model", "pytorch"],
        "datasets": [model.source],
    }
    if found:
        head["model-index"] = [{"name": model.name, "results": _results(model, found)}]
    front = yaml.safe_dump(head, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n{_body(model, found)}"


def _metrics(records: dict[str, dict[str, Any]], evaluate_on: str) -> list[dict[str, Any]]:
    """Every number of the records: its metric, value, how many images it is of, and of images their protocol.

    Also the split of the data set that it was measured on: of a classifier `evaluate_on`, of images that of their
    reference, None where that is a file which does not say.
    """
    found = []
    for name, record in records.items():
        for metric in METRICS:
            value = record.get(metric)
            if value is not None and (metric in HIDDEN) == (name == "accuracy"):
                if name == "accuracy":
                    more = {"split": evaluate_on}
                else:
                    more = {"split": record.get("reference_split"), "protocol": name}
                found.append({"metric": metric, "value": value, "n_images": record["n_images"], **more})
    return found


def _results(model: Model, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the Hub's model-index wants them: by task and split of the data set."""
    groups: dict[tuple[str, str | None], list[dict[str, Any]]] = {}
    for entry in found:
        task = "unconditional-image-generation" if "protocol" in entry else "image-classification"
        args = {key: entry[key] for key in ("protocol", "n_images") if key in entry}
        name = label(entry["metric"], arrow=False)
        # a share from 0 to 1, as the Hub has accuracies
        name = name.removesuffix(" %")
        metric = {"type": entry["metric"], "name": name, "value": entry["value"], "args": args}
        groups.setdefault((task, entry["split"]), []).append(metric)
    dataset = {"name": model.title, "type": model.source}
    return [
        {"task": {"type": task}, "dataset": {**dataset, **({"split": split} if split else {})}, "metrics": metrics}
        for (task, split), metrics in groups.items()
    ]


def _body(model: Model, found: list[dict[str, Any]]) -> str:
    if model.iterations:
        trained, settings = f"for {model.iterations:,} iterations.", "every setting of the training"
    else:
        trained = "elsewhere, by settings that are not known here."
        settings = "what rebuilds the network and how `run.sample` moves chains, but not the settings of its training,"
    parts = [
        f"# {markdown(model.name)}",
        f"{markdown(model.method)}, an energy-based model of images, trained on {markdown(model.title)} {trained} "
        f"{model.weights}".rstrip(),
        _numbers(model, found),
        "## Use",
        "With the project `mebm`, in Python:",
        '```python\nimport mebm\n\nrun = mebm.load("FOLDER")  # this folder, downloaded\n'
        "run.energies(images), run.samples, run.sample(16, steps=100, gaussian=...)\n```",
        "`model.safetensors` holds the parameters and BatchNorm's running averages, `replay_buffer.safetensors` the "
        f"chains (float32 in [-1, 1]), `config.json` {settings} and the hashes of both.",
        "## Limits",
        f"The energy is meant for images like those of {markdown(model.title)} at this size, and compares images only "
        f"with each other. Licence of the training data: {markdown(model.data_licence)}.",
    ]
    return "\n\n".join(parts) + "\n"


def _numbers(model: Model, found: list[dict[str, Any]]) -> str:
    if not found:
        return "The run's metrics were measured with other weights, so none stand here."
    lines = ["| metric | value | images | protocol |", "| --- | --- | --- | --- |"]
    for entry in found:
        cells = (label(entry["metric"]), _printed(entry), f"{entry['n_images']:,}", entry.get("protocol", "held out"))
        lines.append(f"| {' | '.join(map(markdown, cells))} |")
    return "\n".join(lines)


def _printed(entry: dict[str, Any]) -> str:
    return f"{in_print(entry['metric'], entry['value']):.4g}"
