"""Accuracy and test loss of the methods that classify, beside published figures, with competing methods below."""

from mebm.show.rows import COMPARED, SPREAD, Result, Row, chosen, compared, competitors, grouped, published

TITLE = "Classification"
COLUMNS = COMPARED
BASELINES = False


def caption(results: list[Result], titles: dict[str, str]) -> str:
    """Which weights are scored, here and in the release."""
    return (
        f"{SPREAD} Difference is ours minus published. Held-out images, BatchNorm with running statistics. Ours is the "
        "last epoch, unless the row says that weights were chosen: by validation means by training images that the run "
        "held out, never by the test split. The public release looks at the test split every epoch, keeps the weights "
        "with the best test accuracy, and does not say which weights its 94.08 % and its test loss are of: they may "
        "have been chosen on the test set."
    )


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[Row]:
    """A row per method and metric."""
    figures, ours = published(), []
    for (dataset, _), members in grouped(results).items():
        if members[0].classifies:
            by = "chosen weights" if chosen(members) else "imported weights" if members[0].imported else "last epoch"
            ours += compared(figures, titles[dataset], members, "full", ("accuracy", "loss"), digits, by)
    tasks, metrics = ("classification", "hybrid"), ("accuracy", "test loss")
    return ours + competitors(figures, tasks, metrics, sorted(set(titles.values())))
