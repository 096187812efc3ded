"""Accuracy and test loss of the methods that classify, beside published figures, with competing methods below."""

from mebm.show.rows import COMPARED, SEEDS, Result, compared, competitors, grouped, published

TITLE = "Classification"
CAPTION = f"{SEEDS} Held-out images, BatchNorm with running statistics."
COLUMNS = COMPARED
BASELINES = False


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[tuple[str, ...]]:
    """A row per method and metric."""
    figures, ours = published(), []
    for (dataset, method), members in grouped(results).items():
        if members[0].classifies:
            ours += compared(figures, titles[dataset], method, members, "full", ("accuracy", "loss"), digits)
    tasks, metrics = ("classification", "hybrid"), ("accuracy", "test loss")
    return ours + competitors(figures, tasks, metrics, sorted(set(titles.values())))
