"""Figures in one common style, written as SVG whose bytes depend only on what the figures show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mebm.files import replacing


@contextmanager
def figure(
    path: str | Path, rows: int = 1, columns: int = 1, size: tuple[float, float] = (6, 4), **options: Any
) -> Iterator:
    """Axes (an array where there are several) of a figure that is written to `path`, an SVG, when the block ends.

    size: in inches; options: of matplotlib's subplots. Text stays text, so that it can be searched and read aloud.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    style = {"svg.hashsalt": "mebm", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}
    with matplotlib.rc_context(style):
        drawn, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", **options)
        try:
            yield axes
            with replacing(path) as temporary:
                drawn.savefig(temporary, format="svg", metadata={"Date": None, "Creator": None})
        finally:
            plt.close(drawn)


def message(path: str | Path, text: str) -> None:
    """A figure that says why there is none."""
    with figure(path, size=(6, 1.5)) as axes:
        axes.axis("off")
        axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
