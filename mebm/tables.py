"""Metric files to tables: one row a method. It formats and never computes a metric."""

from dataclasses import dataclass
from statistics import mean, stdev

import pandas as pd

from mebm.errors import DataError

DASH = "–"
COLUMNS = ("data set", "method", "fcd ↓", "classifier score ↑", "accuracy %", "test loss", "images", "seeds")
CAPTION = (
    "fcd is the Frechet distance, classifier score the exponentiated mean divergence, both in the features of a small "
    "classifier trained on the same training images. They are not FID and Inception score and compare only within "
    "this table. Runs show mean ± standard deviation over seeds where there are several."
)


@dataclass(frozen=True)
class Result:
    """A row's source: a summary as `summarise` makes it, of a run (one seed) or of a baseline."""

    dataset: str
    method: str
    summary: dict
    is_run: bool


def summarise(quality: dict, accuracy: dict | None = None) -> dict:
    """The numbers of a table row from the full records of quality and, for a run, accuracy.

    Raises DataError for a record that lacks one.
    """
    try:
        summary = {key: quality[key] for key in ("fcd", "classifier_score", "n_images")}
        return summary | {key: accuracy[key] if accuracy else None for key in ("accuracy", "loss")}
    except KeyError as error:
        raise DataError(f"a metric record lacks the key {error}; run its stage again") from error


def rows(results: list[Result], digits: int) -> pd.DataFrame:
    """One row for each data set and method, in order of appearance; several seeds become mean ± std (ddof 1)."""
    groups: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        groups.setdefault((result.dataset, result.method), []).append(result)
    table = []
    for (dataset, method), members in groups.items():
        values = {key: [m.summary[key] for m in members] for key in ("fcd", "classifier_score", "accuracy", "loss")}
        percent = [None if value is None else 100 * value for value in values["accuracy"]]
        counts = sorted({m.summary["n_images"] for m in members})
        table.append(
            (
                dataset,
                method,
                _spread(values["fcd"], digits),
                _spread(values["classifier_score"], digits),
                _spread(percent, digits),
                _spread(values["loss"], digits + 1),
                f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}",
                str(len(members)) if members[0].is_run else DASH,
            )
        )
    return pd.DataFrame(table, columns=COLUMNS)


def _spread(values: list[float | None], digits: int) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return DASH
    text = f"{mean(known):.{digits}f}"
    return f"{text} ± {stdev(known):.{digits}f}" if len(known) > 1 else text


def to_markdown(table: pd.DataFrame) -> str:
    """A Markdown table with its caption below."""
    lines = ["| " + " | ".join(table.columns) + " |", "| " + " | ".join(["---"] * len(table.columns)) + " |"]
    lines += ["| " + " | ".join(row) + " |" for row in table.itertuples(index=False)]
    return "\n".join(lines) + f"\n\n{CAPTION}\n"


def to_csv(table: pd.DataFrame) -> str:
    """Comma-separated values with a header."""
    return table.to_csv(index=False, lineterminator="\n")


def to_latex(table: pd.DataFrame) -> str:
    """A LaTeX table environment (needs booktabs)."""
    escapes = {"%": r"\%", "_": r"\_", "±": r"$\pm$", "↓": r"$\downarrow$", "↑": r"$\uparrow$", DASH: "--"}

    def escape(text: str) -> str:
        return "".join(escapes.get(character, character) for character in text)

    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{ll" + "r" * (len(table.columns) - 2) + "}", r"\toprule"]
    lines += [" & ".join(map(escape, table.columns)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, row)) + r" \\" for row in table.itertuples(index=False)]
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{escape(CAPTION)}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"
