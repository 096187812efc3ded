"""The initial distribution itself, before any training, and held-out images."""

from mebm.settings.checks import BASELINES as PARTS
from mebm.settings.checks import CLASSWISE
from mebm.show.rows import BASES, COMPARED, DASH, Result, Row, compared, grouped, measured_by, published
from mebm.show.summaries import DISTANCES

TITLE = "The initial distribution itself"
COLUMNS = COMPARED
BASELINES = True


def caption(results: list[Result], titles: dict[str, str]) -> str:
    """What is measured, and what is known of the published figures."""
    classwise = any(result.method == CLASSWISE for result in results)
    return (
        "Frechet distance of the Gaussian initial distribution itself, before any training. "
        f"{'By classes: a class drawn by its share, then a draw of the Gaussian of its images. ' if classwise else ''}"
        f"{BASES} {measured_by(results, titles)} Difference is ours minus published. The published figures are "
        "constants of the release, which does not say how many draws they are of; that of ImageNet 32x32 may be of and "
        "against the validation split."
    )


def rows(results: list[Result], titles: dict[str, str], digits: int) -> list[Row]:
    """A row per data set, baseline and metric."""
    figures, made = published(), []
    for (dataset, method), members in grouped(results).items():
        if method in PARTS.values():
            made += compared(figures, titles[dataset], members, "full", DISTANCES, digits, DASH)
    return made
