"""The number of SGLD steps against quality and training time."""

import re

from mebm.show.rows import PROTOCOLS, Result, count, grouped, note, numbers, spread
from mebm.show.summaries import DISTANCES, SCORES

TITLE = "Number of SGLD steps"
CAPTION = f"SGLD steps K against quality and training time of M-EBM with the informative start. {PROTOCOLS}"
COLUMNS = (*("data set", "method", "K", "distance ↓", "score ↑", "training h", "images", "seeds", "protocol", "note"),)
BASELINES = False


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[tuple[str, ...]]:
    """A row per number of steps and protocol, of M-EBM as the paper trains it: others have a name of their own."""
    made = []
    for (dataset, method), members in grouped(results).items():
        first = members[0]
        if not first.is_run or not re.fullmatch(r"M-EBM(, K = \d+)?", method):
            continue
        for protocol in first.protocols:
            records = numbers(members, protocol)
            distances, scores = (
                spread([record[key] for record in records for key in keys if record.get(key) is not None], digits)
                for keys in (DISTANCES, SCORES)
            )
            hours = spread([member.hours for member in members if member.hours is not None], digits)
            counts = sorted({record["n_images"] for record in records if record.get("n_images")})
            made.append(
                (
                    *(titles[dataset], method, str(first.n_steps), distances, scores, hours, count(counts)),
                    *(str(len(records)), protocol, note(members)),
                )
            )
    return sorted(made, key=lambda row: (row[0], int(row[2])))
