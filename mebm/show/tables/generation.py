"""Quality of generated images beside published figures, with competing methods below."""

from mebm.show.rows import COMPARED, PROTOCOLS, SEEDS, Result, compared, competitors, grouped, published
from mebm.show.summaries import QUALITY

TITLE = "Generation"
CAPTION = (
    f"{SEEDS} {PROTOCOLS} Published FID and IS of M-JEM are of a checkpoint whose run is not named, "
    "most likely M-JEM. Competing methods below have their sources in the note; their protocols differ."
)
COLUMNS = COMPARED
BASELINES = True
TASKS = ("hybrid", "generation", "unconditional", "replay buffer")


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[tuple[str, ...]]:
    """A row per method, protocol and metric."""
    figures, ours = published(), []
    for (dataset, method), members in grouped(results).items():
        for protocol in members[0].protocols:
            ours += compared(figures, titles[dataset], method, members, protocol, QUALITY, digits)
    return ours + competitors(figures, TASKS, ("FID", "IS"), sorted(set(titles.values())))
