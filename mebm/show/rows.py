"""Rows that several tables use: results grouped by method, published figures beside ours, competing methods below.

A row holds a cell per column: what stands in print, and the numbers behind it in full, for machines.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

import pandas as pd

from mebm.show.summaries import MANIFOLD, QUALITY, SHARES, in_print, label

DASH = "–"
PUBLISHED = Path(__file__).with_name("published.csv")
PUBLISHED_METRICS = {"fid": "FID", "is_mean": "IS", "accuracy": "accuracy", "loss": "test loss"}  # as published.csv
PREPROCESSING = "tf1"  # of the published FID and IS: torch-fidelity's
ALSO_SHOWN = {"CelebA-HQ 128": ("CelebA 128",)}  # not the same images, the nearest that others report
IMAGES, SEEDS = ("images", "n_images_min", "n_images_max"), ("seeds", "n_seeds")
COVERAGE = tuple((label(name), f"{name}_percent_mean", f"{name}_percent_std") for name in MANIFOLD)
OPTIONAL = (*map(label, MANIFOLD), "note")  # left out in print where no row has any
# Columns of `compared` and `competitors`
COMPARED = (
    *(("data set", "data_set"), ("method", "method"), ("metric", "metric"), ("published", "published")),
    *(("ours", "ours_mean", "ours_std"), ("difference", "difference"), IMAGES, SEEDS),
    *(("protocol", "protocol"), ("note", "note")),
)
SPREAD = "Runs show mean ± standard deviation over seeds where there are several."
DIFFERENCE = f"{SPREAD} Difference is ours minus published, and both are by the same protocol."
PROTOCOLS = (
    "Protocol full: all chains of the replay buffer in their own order, rounded to bytes; no published figure is by "
    "it. Protocol release_R, the public release's: of each predicted class of its first 10,000 chains the most "
    "confident, the share R if that is below 1, else R at most (10000: all), class by class, truncated to bytes. The "
    "class head of an M-EBM is untrained, so its selection by class is arbitrary."
)
BASES = "Of the initial distribution draws are scored, rounded to bytes; held-out images are scored as they are."


class Cell(NamedTuple):
    """What stands in print, and in CSV: a value per column there, None for nothing."""

    text: str
    values: tuple[str | float | None, ...]


Row = tuple[str | Cell, ...]  # plain text stands for itself, also in CSV, where a dash is an empty cell


@dataclass(frozen=True)
class Result:
    """A row's source: a summary as `summarise` makes it, of a run (one seed) or of a baseline; None with a reason."""

    dataset: str
    method: str
    summary: dict | None
    is_run: bool
    reason: str = ""
    n_steps: int | None = None
    classifies: bool = False
    protocols: tuple[str, ...] = ("full",)
    imported: bool = False
    evaluate_on: str = "test"
    hours: float | None = field(default=None, compare=False)

    @property
    def published_as(self) -> str:
        """The method whose published figures stand beside it: of an imported run, its own up to a parenthesis."""
        return self.method.partition(" (")[0] if self.imported else self.method


def published() -> pd.DataFrame:
    """The published figures: dataset, task, method, metric, value, unit, source, and the row of ours they belong to.

    our_protocol: the protocol by which they were measured; empty where there is only one way.
    """
    return pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)


def grouped(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    """Results by (data set, method), which are seeds of one row, in order of appearance."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.method), []).append(result)
    return groups


def numbers(members: list[Result], protocol: str) -> list[dict]:
    """The numbers of those members that have any."""
    known = [m.summary for m in members if m.summary is not None]
    return known if protocol == "full" else [summary[protocol] for summary in known if protocol in summary]


def chosen(members: list[Result]) -> str:
    """Which weights a row's runs have, where they were taken from those that training kept; else empty."""
    choices = [m.summary["choice"] for m in members if m.summary and m.summary.get("choice")]
    if not choices:
        return ""
    (first, *_), epochs = choices, list(dict.fromkeys(choice["epoch"] for choice in choices))
    said = {"last": "last epoch kept", "epoch": "weights of one epoch"}.get(first["by"])
    at = f"epoch{'s' if len(epochs) > 1 else ''} {', '.join(map(str, epochs))} of {first['epochs']}"
    return f"{said or 'best by validation ' + first['by']} ({at})"


def note(members: list[Result]) -> str:
    """Why numbers are missing, which weights they are of, and what happened on the way to them."""
    reasons = [said] if (said := chosen(members)) else []
    reasons += [m.reason for m in members if m.reason]
    reasons += [m.summary["status"] for m in members if m.summary and m.summary.get("status")]
    if restarts := sum(m.summary.get("restarts", 0) for m in members if m.summary):
        reasons.append(f"restarted {restarts} times after divergence")
    return "; ".join(dict.fromkeys(reasons))


def measured_by(results: list[Result], titles: dict[str, str]) -> str:
    """By what distances are measured on each data set, for captions: the reference, and how good a classifier is."""
    references, accuracies, warnings = {}, {}, {}
    for result in results:
        title = titles[result.dataset]
        for record in _records(result):
            if record.get("reference_split"):
                references[title] = f"the {record['n_reference']} images of its {record['reference_split']} split"
            elif "reference_split" in record:
                references[title] = "statistics from a file, reference.file"
            if record.get("features_accuracy") is not None:
                accuracies[title] = f"{100 * record['features_accuracy']:.1f} %"
            if record.get("features_warning"):
                warnings[title] = record["features_warning"]
    parts = [f"Reference of distances: {_listed(references)}."] if references else []
    if accuracies:
        parts.append(f"Accuracy of the feature classifier on held-out images: {_listed(accuracies)}.")
    return " ".join([*parts, *(f"Warning for {title}: {warning}." for title, warning in warnings.items())])


def coverage(results: list[Result]) -> str:
    """What precision and recall are, for captions of tables that have them; empty where none was measured."""
    if not any(record.get(name) is not None for result in results for record in _records(result) for name in MANIFOLD):
        return ""
    return (
        "Precision is the share of the scored images that lie near real ones, recall the share of real ones that lie "
        "near scored ones, by nearest neighbours in the same features."
    )


def _records(result: Result) -> list[dict]:
    """A result's summary, and those of other protocols in it."""
    summary = result.summary or {}
    return [summary, *(value for value in summary.values() if isinstance(value, dict))]


def _listed(found: dict[str, str]) -> str:
    return "; ".join(f"{title}, {value}" for title, value in found.items())


def compared(
    figures: pd.DataFrame,
    title: str,
    members: list[Result],
    protocol: str,
    metrics: tuple[str, ...],
    digits: int,
    by: str,
) -> list[Row]:
    """A row per metric that was measured, with the published figure of this data set, method and protocol.

    figures: as `published` gives them; title: the data set's name there; by: what the column of the protocol says.
    """
    records, first = numbers(members, protocol), members[0]
    shown = [metric for metric in metrics if any(metric in record for record in records)]
    if not shown:  # nothing measured yet: the metrics that are published stay visible
        shown = [metric for metric in metrics if metric in PUBLISHED_METRICS]
    rows = []
    for metric in shown:
        values, places = measured(records, metric), decimals(metric, digits)
        match = figures[
            (figures.dataset == title)
            & (figures.our_method == first.published_as)
            & (figures.metric == PUBLISHED_METRICS.get(metric))
            & figures.our_protocol.isin(("", protocol))
        ]
        figure = match.value.iloc[0] if len(match) else None
        unlike = _unlike(metric, records, first) if figure else ""
        difference = mean(values) - float(figure) if values and figure and not unlike else None
        rows.append(
            (
                *(title, first.method, metric_cell(metric), figure_cell(figure), spread(values, places)),
                *(number(difference, places, sign=True), images(records, metric), seeds(members, values)),
                *(by, "; ".join(filter(None, (note(members), unlike)))),
            )
        )
    return rows


def _unlike(metric: str, records: list[dict], first: Result) -> str:
    """Why a published figure is not of the same kind as ours, which then have no difference."""
    others = {record.get("preprocessing", PREPROCESSING) for record in records} - {PREPROCESSING}
    if metric in QUALITY and others:
        return f"ours with the preprocessing {', '.join(sorted(others))}, the published figure with {PREPROCESSING}"
    if metric in ("accuracy", "loss") and first.evaluate_on != "test":
        return f"ours on the {first.evaluate_on} split, the published figure on the test split"
    return ""


def competitors(
    figures: pd.DataFrame, tasks: tuple[str, ...], metrics: tuple[str, ...], titles: list[str]
) -> list[Row]:
    """Published figures of other methods, a row each: those of the tasks and metrics, as published.csv names them."""
    names = [name for title in titles for name in (title, *ALSO_SHOWN.get(title, ()))]
    keys = {value: key for key, value in PUBLISHED_METRICS.items()}
    chosen = figures[
        figures.dataset.isin(names)
        & (figures.our_method == "")
        & figures.metric.isin(metrics)
        & figures.task.map(lambda task: task.split(",")[0] in tasks)
    ]
    none = (spread([], 0), DASH, count([]), DASH)
    return [
        (r.dataset, r.method, metric_cell(keys[r.metric]), figure_cell(r.value), *none, r.task, r.source)
        for r in chosen.itertuples()
    ]


def measured(records: list[dict], metric: str) -> list[float]:
    """The values of a metric that there are; shares in percent."""
    return [in_print(metric, record[metric]) for record in records if record.get(metric) is not None]


def decimals(metric: str, digits: int) -> int:
    """Decimals of a metric in print, of which most have `digits`: precision and recall are of few images."""
    return max(digits - 2, 0) if metric in MANIFOLD else digits + (metric == "loss")


# ---------------------------------------------------------------- cells


def metric_cell(metric: str) -> Cell:
    """The name of a metric."""
    return Cell(label(metric), (f"{metric}_percent" if metric in SHARES else metric,))


def figure_cell(value: str | None) -> Cell:
    """A figure as it was published, digit by digit."""
    return Cell(value or DASH, (float(value) if value else None,))


def number(value: float | None, digits: int, sign: bool = False) -> Cell:
    """A number with so many decimals; a dash for None."""
    return Cell(DASH if value is None else f"{value:{'+' if sign else ''}.{digits}f}", (value,))


def spread(values: list[float], digits: int) -> Cell:
    """Mean ± standard deviation (ddof 1), in two columns of CSV; of a single value itself, of none a dash."""
    if not values:
        return Cell(DASH, (None, None))
    text, deviation = f"{mean(values):.{digits}f}", stdev(values) if len(values) > 1 else None
    return Cell(text if deviation is None else f"{text} ± {deviation:.{digits}f}", (mean(values), deviation))


def images(records: list[dict], metric: str = "") -> Cell:
    """Over how many images the members' metric is, in two columns of CSV: the fewest and the most."""
    of = "n_test" if metric in ("accuracy", "loss") else "n_images"
    return count(record[of] for record in records if record.get(of))


def count(counts: Iterable[int]) -> Cell:
    """A number that members need not share, in two columns of CSV: the lowest and the highest."""
    found = sorted(set(counts))
    if not found:
        return Cell(DASH, (None, None))
    return Cell(str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}", (found[0], found[-1]))


def seeds(members: list[Result], values: list) -> str | Cell:
    """How many runs a row's values are of; a dash for what is no run."""
    return Cell(str(len(values)), (len(values),)) if members[0].is_run else DASH
