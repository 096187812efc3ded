"""Quality and accuracy side by side, in the features of the small classifier: a row per data set and method."""

from mebm.show.rows import DASH, Result, count, grouped, note, numbers, spread

TITLE = "Quality and accuracy"
CAPTION = (
    "fcd is the Frechet distance, classifier score the exponentiated mean divergence, both in the features of a small "
    "classifier trained on the same training images. These are neither FID nor Inception Score; compare them only "
    "within one data set. Runs show mean ± standard deviation over seeds where there are several."
)
COLUMNS = ("data set", "method", "fcd ↓", "classifier score ↑", "accuracy %", "test loss", "images", "seeds")
BASELINES = True


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[tuple[str, ...]]:
    """In order of appearance; several seeds become mean ± std (ddof 1)."""
    made = []
    for (dataset, method), members in grouped(results).items():
        records = numbers(members, "full")
        values = {
            key: [record[key] for record in records if record.get(key) is not None]
            for key in ("fcd", "classifier_score", "accuracy", "loss")
        }
        counts = sorted({record["n_images"] for record in records if record.get("n_images")})
        remark = note(members)
        made.append(
            (
                *(dataset, method + (f" ({remark})" if remark else "")),
                *(spread(values["fcd"], digits), spread(values["classifier_score"], digits)),
                *(spread([100 * v for v in values["accuracy"]], digits), spread(values["loss"], digits + 1)),
                *(count(counts), str(len(records)) if members[0].is_run else DASH),
            )
        )
    return made
