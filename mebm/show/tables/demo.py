"""Quality and accuracy side by side, in the features of the small classifier: a row per data set and method."""

from mebm.show.rows import (
    COVERAGE,
    IMAGES,
    SEEDS,
    SPREAD,
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

TITLE = "Quality and accuracy"
COLUMNS = (
    *(("data set", "data_set"), ("method", "method"), ("fcd ↓", "fcd_mean", "fcd_std")),
    *(("classifier score ↑", "classifier_score_mean", "classifier_score_std"), *COVERAGE),
    *(("accuracy % ↑", "accuracy_percent_mean", "accuracy_percent_std"), ("test loss ↓", "loss_mean", "loss_std")),
    *(IMAGES, SEEDS, ("note", "note")),
)
BASELINES = True


def caption(results: list[Result], titles: dict[str, str]) -> str:
    """What the metrics are, and how good the classifier is."""
    return (
        "fcd is the Frechet distance, classifier score the exponentiated mean divergence, both in the features of a "
        "small classifier trained on the same training images. These are neither FID nor Inception Score; compare them "
        f"only within one data set. {SPREAD} Of a run the whole replay buffer is scored, rounded to bytes. "
        f"{coverage(results)} {measured_by(results, {name: name for name in titles})}"
    ).strip()


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[Row]:
    """In order of appearance; several seeds become mean ± std (ddof 1)."""
    made = []
    for (dataset, method), members in grouped(results).items():
        records = numbers(members, "full")
        keys = ("fcd", "classifier_score", "precision", "recall", "accuracy", "loss")
        found = (spread(measured(records, key), decimals(key, digits)) for key in keys)
        made.append((dataset, method, *found, images(records), seeds(members, records), note(members)))
    return made
