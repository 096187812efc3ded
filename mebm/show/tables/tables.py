"""Metric records to tables, beside published figures. It formats and never computes a metric."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Annotated

import pandas as pd
from pydantic import Field, RootModel, model_validator

from mebm.errors import DataError
from mebm.files import Record
from mebm.settings.checks import HELDOUT, INITIAL

DASH = "–"
PUBLISHED = Path(__file__).with_name("published.csv")
NAMES = {
    "fid": "FID ↓",
    "is_mean": "IS ↑",
    "fcd": "fcd ↓",
    "classifier_score": "classifier score ↑",
    "accuracy": "accuracy % ↑",
    "loss": "test loss ↓",
}
PUBLISHED_METRICS = {"fid": "FID", "is_mean": "IS", "accuracy": "accuracy", "loss": "test loss"}
GENERATION_TASKS = ("hybrid", "generation", "unconditional", "replay buffer")
ALSO_SHOWN = {"CelebA-HQ 128": ("CelebA 128",)}  # not the same images, the nearest that others report
COLUMNS = ("data set", "method", "metric", "published", "ours", "difference", "images", "seeds", "protocol", "note")
STEPS_COLUMNS = (
    "data set",
    "method",
    "K",
    "distance ↓",
    "score ↑",
    "training h",
    "images",
    "seeds",
    "protocol",
    "note",
)
DEMO_COLUMNS = ("data set", "method", "fcd ↓", "classifier score ↑", "accuracy %", "test loss", "images", "seeds")
NOT_FID = (
    "fcd is the Frechet distance, classifier score the exponentiated mean divergence, both in the features of a small "
    "classifier trained on the same training images. They are not FID and Inception score and compare only within "
    "this table. Runs show mean ± standard deviation over seeds where there are several."
)
_SEEDS = "Runs show mean ± standard deviation over seeds where there are several; difference is ours minus published."
_PROTOCOLS = (
    "Protocol full: the whole replay buffer, rounded to bytes. Protocol release: selected by predicted class and "
    "truncated as the public release does (for M-EBM its class head is untrained, so that selection is arbitrary)."
)
CAPTIONS = {
    "demo": NOT_FID,
    "generation": f"{_SEEDS} {_PROTOCOLS} Published FID and IS of M-JEM are of a checkpoint whose run is not named, "
    "most likely M-JEM. Competing methods below have their sources in the note; their protocols differ.",
    "classification": f"{_SEEDS} Held-out images, BatchNorm with running statistics.",
    "steps": f"SGLD steps K against quality and training time of M-EBM with the informative start. {_PROTOCOLS}",
    "start": f"Frechet distance of the Gaussian initial distribution itself, before any training. {_SEEDS}",
}


class Numbers(Record):
    """A record of metrics, as far as tables need it: null where there is no number."""

    fid: float | None = None
    is_mean: float | None = None
    fcd: float | None = None
    classifier_score: float | None = None
    n_images: Annotated[int, Field(ge=0)] = 0
    status: str = "ok"
    restarts: Annotated[int, Field(ge=0)] = 0


class Measured(Numbers):
    """The quality of one set of images."""

    @model_validator(mode="after")
    def _is_whole(self) -> "Measured":
        pair = ("fid", "is_mean") if "fid" in self.model_fields_set else ("fcd", "classifier_score")
        if lacking := [key for key in (*pair, "n_images") if key not in self.model_fields_set]:
            raise ValueError(f"it lacks the key {lacking[0]}")
        return self


class Quality(RootModel[dict[str, Measured]]):
    """quality.json: what was measured, by protocol."""


class Accuracy(Record):
    """accuracy.json."""

    accuracy: float | None
    loss: float | None
    n_images: Annotated[int, Field(ge=0)]


class Summary(Numbers):
    """What `summarise` makes of both: every other key is a protocol."""

    __pydantic_extra__: dict[str, Numbers]
    accuracy: float | None = None
    loss: float | None = None
    n_test: Annotated[int, Field(ge=0)] = 0


class Hours(Record):
    """time.<run>.json: how long training took."""

    hours: Annotated[float, Field(ge=0)]


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


def summarise(quality: dict[str, dict], accuracy: dict | None = None) -> dict:
    """The numbers of table rows from the full records of quality, by protocol, and for a run of accuracy.

    Keys of the protocol "full" stand at the top, those of others below their name. Raises DataError for a record that
    lacks one.
    """

    def condensed(record: dict) -> dict:
        distance, score = ("fid", "is_mean") if "fid" in record else ("fcd", "classifier_score")
        try:
            keys = (distance, score, "n_images")
            return {key: record[key] for key in keys} | {k: record[k] for k in ("status",) if k in record}
        except KeyError as error:
            raise DataError(f"a metric record lacks the key {error}; run its stage again") from error

    summary = condensed(quality["full"]) if "full" in quality else {}
    summary |= {name: condensed(record) for name, record in quality.items() if name != "full"}
    if accuracy is None:
        return summary
    if restarts := max((record.get("restarts", 0) for record in quality.values()), default=0):
        summary["restarts"] = restarts
    try:
        return summary | {"n_test": accuracy["n_images"]} | {key: accuracy[key] for key in ("accuracy", "loss")}
    except KeyError as error:
        raise DataError(f"a metric record lacks the key {error}; run its stage again") from error


def published() -> pd.DataFrame:
    """The published figures: dataset, task, method, metric, value, unit, source, and the row of ours they belong to."""
    return pd.read_csv(PUBLISHED, dtype=str, keep_default_na=False)


def make(table: str, results: list[Result], titles: dict[str, str], digits: int) -> pd.DataFrame:
    """The table of that name. titles: the data sets' names in publications."""
    if table == "demo":
        return _demo(results, digits)
    if table == "steps":
        return _steps(results, titles, digits)
    wanted = {"start": [INITIAL, HELDOUT]}.get(table)
    metrics = ("accuracy", "loss") if table == "classification" else ("fcd", "fid", "classifier_score", "is_mean")
    if table == "start":
        metrics = ("fcd", "fid")
    figures, ours = published(), []
    for (dataset, method), members in _groups(results).items():
        if (wanted and method not in wanted) or (table == "classification" and not members[0].classifies):
            continue
        protocols = ("full",) if table == "classification" else members[0].protocols
        for protocol in protocols:
            ours += _compared(figures, titles[dataset], method, members, protocol, metrics, digits)
    others = [] if table == "start" else _competitors(figures, table, sorted(set(titles.values())))
    return pd.DataFrame(ours + others, columns=COLUMNS)


def _groups(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.method), []).append(result)
    return groups


def _numbers(members: list[Result], protocol: str) -> list[dict]:
    """The numbers of those members that have any."""
    known = [m.summary for m in members if m.summary is not None]
    return known if protocol == "full" else [summary[protocol] for summary in known if protocol in summary]


def _note(members: list[Result]) -> str:
    reasons = [m.reason for m in members if m.reason]
    reasons += [m.summary["status"] for m in members if m.summary and m.summary.get("status")]
    if restarts := sum(m.summary.get("restarts", 0) for m in members if m.summary):
        reasons.append(f"restarted {restarts} times after divergence")
    return "; ".join(dict.fromkeys(reasons))


def _compared(
    figures: pd.DataFrame,
    title: str,
    method: str,
    members: list[Result],
    protocol: str,
    metrics: tuple[str, ...],
    digits: int,
) -> list[tuple]:
    numbers = _numbers(members, protocol)
    shown = [metric for metric in metrics if any(metric in record for record in numbers)]
    if not shown:  # nothing measured yet: the metrics that are published stay visible
        shown = [metric for metric in metrics if metric in PUBLISHED_METRICS]
    rows = []
    for metric in shown:
        decimals = digits + (metric == "loss")
        factor = 100 if metric == "accuracy" else 1
        values = [record[metric] * factor for record in numbers if record.get(metric) is not None]
        match = figures[
            (figures.dataset == title)
            & (figures.our_method == method)
            & (figures.metric == PUBLISHED_METRICS.get(metric))
            & figures.our_protocol.isin(("", protocol))
        ]
        figure = float(match.value.iloc[0]) if len(match) else None
        difference = f"{mean(values) - figure:+.{decimals}f}" if values and figure is not None else DASH
        of = "n_test" if metric in ("accuracy", "loss") else "n_images"
        counts = sorted({record[of] for record in numbers if record.get(of)})
        rows.append(
            (
                *(title, method, NAMES[metric], match.value.iloc[0] if len(match) else DASH),
                *(_spread(values, decimals), difference),
                *(_count(counts), str(len(values)) if members[0].is_run else DASH, protocol),
                _note(members),
            )
        )
    return rows


def _competitors(figures: pd.DataFrame, table: str, titles: list[str]) -> list[tuple]:
    names = [name for title in titles for name in (title, *ALSO_SHOWN.get(title, ()))]
    tasks = ("classification", "hybrid") if table == "classification" else GENERATION_TASKS
    metrics = ("accuracy", "test loss") if table == "classification" else ("FID", "IS")
    labels = {value: NAMES[key] for key, value in PUBLISHED_METRICS.items()}
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


def _steps(results: list[Result], titles: dict[str, str], digits: int) -> pd.DataFrame:
    rows = []
    for (dataset, method), members in _groups(results).items():
        first = members[0]
        if not first.is_run or not re.fullmatch(r"M-EBM(, K = \d+)?", method):
            continue  # M-EBM as the paper trains it: ablations carry their difference in the name
        for protocol in first.protocols:
            numbers = _numbers(members, protocol)

            def spread(*keys: str, numbers: list[dict] = numbers) -> str:
                return _spread([r[k] for r in numbers for k in keys if r.get(k) is not None], digits)

            hours = [m.hours for m in members if m.hours is not None]
            counts = sorted({record["n_images"] for record in numbers if record.get("n_images")})
            rows.append(
                (
                    *(titles[dataset], method, str(first.n_steps), spread("fid", "fcd")),
                    *(spread("is_mean", "classifier_score"), _spread(hours, digits), _count(counts)),
                    *(str(len(numbers)), protocol, _note(members)),
                )
            )
    return pd.DataFrame(sorted(rows, key=lambda row: (row[0], int(row[2]))), columns=STEPS_COLUMNS)


def _demo(results: list[Result], digits: int) -> pd.DataFrame:
    """One row for each data set and method, in order of appearance; several seeds become mean ± std (ddof 1)."""
    table = []
    for (dataset, method), members in _groups(results).items():
        numbers = _numbers(members, "full")
        values = {
            key: [record[key] for record in numbers if record.get(key) is not None]
            for key in ("fcd", "classifier_score", "accuracy", "loss")
        }
        counts = sorted({record["n_images"] for record in numbers if record.get("n_images")})
        note = _note(members)
        table.append(
            (
                *(dataset, method + (f" ({note})" if note else "")),
                *(_spread(values["fcd"], digits), _spread(values["classifier_score"], digits)),
                *(_spread([100 * v for v in values["accuracy"]], digits), _spread(values["loss"], digits + 1)),
                *(_count(counts), str(len(numbers)) if members[0].is_run else DASH),
            )
        )
    return pd.DataFrame(table, columns=DEMO_COLUMNS)


def _count(counts: list[int]) -> str:
    if not counts:
        return DASH
    return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _spread(values: list[float], digits: int) -> str:
    if not values:
        return DASH
    text = f"{mean(values):.{digits}f}"
    return f"{text} ± {stdev(values):.{digits}f}" if len(values) > 1 else text


def markdown(text: str) -> str:
    """Text as a cell of a Markdown table shows it: marks have no meaning, and a bar or a line's end closes no cell."""
    escaped = re.sub(r"([\\`*\[\]<>|~&$])|(?<!\w)(_)|(_)(?!\w)", lambda match: f"\\{match[0]}", _on_one_line(text))
    return escaped.strip()


def to_markdown(table: pd.DataFrame, caption: str) -> str:
    """A Markdown table with its caption below."""
    lines = ["| " + " | ".join(table.columns) + " |", "| " + " | ".join(["---"] * len(table.columns)) + " |"]
    lines += ["| " + " | ".join(map(markdown, row)) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + f"\n\n{caption}\n"


def to_csv(table: pd.DataFrame, caption: str = "") -> str:
    """Comma-separated values with a header. An apostrophe stands before what a spreadsheet would take for a formula."""
    return table.map(_no_formula).to_csv(index=False, lineterminator="\n")


def _no_formula(text: str) -> str:
    text = _on_one_line(text).strip()
    is_formula = re.match(r"[=+\-@]", text) and not re.match(r"[+-]?[\d.]+( ± [\d.]+)?$", text)
    return f"'{text}" if is_formula else text


def _on_one_line(text: str) -> str:
    return re.sub(r"[\s\x00-\x1f\x7f]+", " ", text)


LATEX = {"\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$"}
LATEX |= {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}"}
# after the \\ of the row above, [ ] and * would be its own
LATEX |= {"|": r"\textbar{}", "[": "{[}", "]": "{]}", "*": "{*}"}
LATEX |= {"±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", DASH: "--"}


def to_latex(table: pd.DataFrame, caption: str) -> str:
    """A LaTeX table environment (needs booktabs). No text in it is a command."""

    def escape(text: str) -> str:
        return "".join(LATEX.get(character, character) for character in _on_one_line(text))

    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{ll" + "r" * (len(table.columns) - 2) + "}", r"\toprule"]
    lines += [" & ".join(map(escape, table.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape(caption)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"
