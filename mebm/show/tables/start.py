"""The initial distribution itself, before any training, and held-out images."""

from mebm.settings.checks import HELDOUT, INITIAL
from mebm.show.rows import COMPARED, SEEDS, Result, compared, grouped, published
from mebm.show.summaries import DISTANCES

TITLE = "The initial distribution itself"
CAPTION = f"Frechet distance of the Gaussian initial distribution itself, before any training. {SEEDS}"
COLUMNS = COMPARED
BASELINES = True


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[tuple[str, ...]]:
    """A row per data set, baseline and metric."""
    figures, made = published(), []
    for (dataset, method), members in grouped(results).items():
        if method in (INITIAL, HELDOUT):
            for protocol in members[0].protocols:
                made += compared(figures, titles[dataset], method, members, protocol, DISTANCES, digits)
    return made
