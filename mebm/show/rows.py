"""Rows that several tables use: results grouped by method, published figures beside ours, competing methods below."""

from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev

import pandas as pd

from mebm.show.summaries import label

DASH = "–"
PUBLISHED = Path(__file__).with_name("published.csv")
PUBLISHED_METRICS = {"fid": "FID", "is_mean": "IS", "accuracy": "accuracy", "loss": "test loss"}  # as published.csv
ALSO_SHOWN = {"CelebA-HQ 128": ("CelebA 128",)}  # not the same images, the nearest that others report
# Columns of `compared` and `competitors`
COMPARED = ("data set", "method", "metric", "published", "ours", "difference", "images", "seeds", "protocol", "note")
SEEDS = "Runs show mean ± standard deviation over seeds where there are several; difference is ours minus published."
PROTOCOLS = (
    "Protocol full: the whole replay buffer, rounded to bytes. Protocol release: selected by predicted class and "
    "truncated as the public release does (for M-EBM its class head is untrained, so that selection is arbitrary)."
)


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
    hours: float | None = field(default=None, compare=False)


def published() -> pd.DataFrame:
    """The published figures: dataset, task, method, metric, value, unit, source, and the row of ours they belong to."""
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


def note(members: list[Result]) -> str:
    """Why numbers are missing, and what happened on the way to them."""
    reasons = [m.reason for m in members if m.reason]
    reasons += [m.summary["status"] for m in members if m.summary and m.summary.get("status")]
    if restarts := sum(m.summary.get("restarts", 0) for m in members if m.summary):
        reasons.append(f"restarted {restarts} times after divergence")
    return "; ".join(dict.fromkeys(reasons))


def compared(
    figures: pd.DataFrame,
    title: str,
    method: str,
    members: list[Result],
    protocol: str,
    metrics: tuple[str, ...],
    digits: int,
) -> list[tuple[str, ...]]:
    """A row per metric that was measured, with the published figure of this data set, method and protocol.

    figures: as `published` gives them; title: the data set's name there.
    """
    records = numbers(members, protocol)
    shown = [metric for metric in metrics if any(metric in record for record in records)]
    if not shown:  # nothing measured yet: the metrics that are published stay visible
        shown = [metric for metric in metrics if metric in PUBLISHED_METRICS]
    rows = []
    for metric in shown:
        decimals = digits + (metric == "loss")
        factor = 100 if metric == "accuracy" else 1
        values = [record[metric] * factor for record in records if record.get(metric) is not None]
        match = figures[
            (figures.dataset == title)
            & (figures.our_method == method)
            & (figures.metric == PUBLISHED_METRICS.get(metric))
            & figures.our_protocol.isin(("", protocol))
        ]
        figure = float(match.value.iloc[0]) if len(match) else None
        difference = f"{mean(values) - figure:+.{decimals}f}" if values and figure is not None else DASH
        of = "n_test" if metric in ("accuracy", "loss") else "n_images"
        counts = sorted({record[of] for record in records if record.get(of)})
        rows.append(
            (
                *(title, method, label(metric), match.value.iloc[0] if len(match) else DASH),
                *(spread(values, decimals), difference),
                *(count(counts), str(len(values)) if members[0].is_run else DASH, protocol),
                note(members),
            )
        )
    return rows


def competitors(
    figures: pd.DataFrame, tasks: tuple[str, ...], metrics: tuple[str, ...], titles: list[str]
) -> list[tuple[str, ...]]:
    """Published figures of other methods, a row each: those of the tasks and metrics, as published.csv names them."""
    names = [name for title in titles for name in (title, *ALSO_SHOWN.get(title, ()))]
    labels = {value: label(key) for key, value in PUBLISHED_METRICS.items()}
    chosen = figures[
        figures.dataset.isin(names)
        & (figures.our_method == "")
        & figures.metric.isin(metrics)
        & figures.task.map(lambda task: task.split(",")[0] in tasks)
    ]
    return [
        (r.dataset, r.method, labels[r.metric], r.value, DASH, DASH, DASH, DASH, r.task, r.source)
        for r in chosen.itertuples()
    ]


def count(counts: list[int]) -> str:
    """Numbers of images of a row's members."""
    if not counts:
        return DASH
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def spread(values: list[float], digits: int) -> str:
    """Mean ± standard deviation (ddof 1); of a single value itself, of none a dash."""
    if not values:
        return DASH
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text
