"""The number of SGLD steps against quality and training time."""

import re

from mebm.show.rows import (
    COVERAGE,
    IMAGES,
    PROTOCOLS,
    SEEDS,
    SPREAD,
    Cell,
    Result,
    Row,
    coverage,
    decimals,
    grouped,
    images,
    measured,
    measured_by,
    note,
    numbers,
    seeds,
    spread,
)
from mebm.show.summaries import DISTANCES, SCORES

TITLE = "Number of SGLD steps"
COLUMNS = (
    *(
        ("data set", "data_set"),
        ("method", "method"),
        ("K", "n_steps"),
        ("distance ↓", "distance_mean", "distance_std"),
    ),
    *(("score ↑", "score_mean", "score_std"), *COVERAGE, ("training h", "training_hours_mean", "training_hours_std")),
    *(IMAGES, SEEDS, ("protocol", "protocol"), ("note", "note")),
)
BASELINES = False


def caption(results: list[Result], titles: dict[str, str]) -> str:
    """What is shown, by which protocol."""
    return (
        "SGLD steps K against quality and training time of M-EBM with the informative start. "
        f"{SPREAD} {PROTOCOLS} {coverage(results)} {measured_by(results, titles)}"
    ).strip()


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[Row]:
    """A row per number of steps and protocol, of M-EBM as the paper trains it: others have a name of their own."""
    made = []
    for (dataset, method), members in grouped(results).items():
        first = members[0]
        if not first.is_run or not re.fullmatch(r"M-EBM(, K = \d+)?", method):
            continue
        for protocol in first.protocols:
            records = numbers(members, protocol)
            quality = (DISTANCES, SCORES, ("precision",), ("recall",))
            values = [([value for key in keys for value in measured(records, key)], keys[0]) for keys in quality]
            hours = [member.hours for member in members if member.hours is not None]
            made.append(
                (
                    *(titles[dataset], method, Cell(str(first.n_steps), (first.n_steps,))),
                    *(spread(found, decimals(key, digits)) for found, key in values),
                    *(spread(hours, digits), images(records)),
                    *(seeds(members, records), protocol, note(members)),
                )
            )
    return sorted(made, key=lambda row: (row[0], row[2].values[0]))
