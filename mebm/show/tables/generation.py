"""Quality of generated images beside published figures, with competing methods below."""

import pandas as pd

from mebm.show.rows import (
    BASES,
    COMPARED,
    DASH,
    DIFFERENCE,
    PROTOCOLS,
    Result,
    Row,
    compared,
    competitors,
    coverage,
    grouped,
    measured_by,
    published,
)
from mebm.show.summaries import QUALITY

TITLE = "Generation"
COLUMNS = COMPARED
BASELINES = True
TASKS = ("hybrid", "generation", "unconditional", "replay buffer")


def caption(results: list[Result], titles: dict[str, str]) -> str:
    """By which protocol each row is measured."""
    return (
        f"{DIFFERENCE} {PROTOCOLS} {BASES} {coverage(results)} {measured_by(results, titles)} Published FID and IS "
        "beside M-JEM are of a checkpoint whose run the release does not name, most likely M-JEM, against the training "
        "split. Competing methods stand below with their sources; their protocols differ."
    )


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[Row]:
    """A row per method, protocol and metric, also where a protocol is published by which ours is not scored."""
    figures, ours = published(), []
    for (dataset, _), members in grouped(results).items():
        title, first = titles[dataset], members[0]
        for protocol in first.protocols:
            by = protocol if first.is_run else DASH
            ours += compared(figures, title, members, protocol, QUALITY, digits, by)
        for protocol in _only_published(figures, title, first):
            missing = compared(figures, title, members, protocol, QUALITY, digits, protocol)
            ours += [(*row[:-1], f"for ours, add {protocol} to sample.protocols") for row in missing]
    return ours + competitors(figures, TASKS, ("FID", "IS"), sorted(set(titles.values())))


def _only_published(figures: pd.DataFrame, title: str, result: Result) -> list[str]:
    of = figures[
        (figures.dataset == title) & (figures.our_method == result.published_as) & (figures.our_protocol != "")
    ]
    return [protocol for protocol in dict.fromkeys(of.our_protocol) if protocol not in result.protocols]
