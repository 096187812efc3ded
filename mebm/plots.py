"""Figures: one look for all of them, written as SVG whose bytes depend on nothing but what they show."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from mebm.errors import DataError
from mebm.files import replacing, require


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


def read_log(path: str | Path) -> pd.DataFrame:
    """The rows of a run's log.csv. Raises DataError for a file without rows or with other columns."""
    require(path)
    try:
        log = pd.read_csv(path)
        return log.astype({"iteration": int, "energy_pos": float, "energy_neg": float})
    except (ValueError, KeyError) as error:
        raise DataError(f"{path}: is not a training log ({error}); train the run again") from error


def plot_curves(log: pd.DataFrame, title: str, path: str | Path) -> None:
    """Energies of data and samples, their gap, the SGLD gradient norm, and the loss, against iterations."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharex=True, layout="constrained")
    x = log["iteration"]
    axes[0, 0].plot(x, log["energy_pos"], label="data")
    axes[0, 0].plot(x, log["energy_neg"], label="samples")
    axes[0, 0].set(ylabel="mean energy (low = likely)")
    axes[0, 0].legend()
    axes[0, 1].axhline(0, color="0.7", linewidth=1)
    axes[0, 1].plot(x, log["energy_gap"], color="C2")
    axes[0, 1].set(ylabel="energy gap (data - samples)")
    axes[1, 0].plot(x, log["grad_norm"], color="C3")
    axes[1, 0].set(ylabel="SGLD gradient norm", xlabel="iteration")
    axes[1, 1].plot(x, log["loss"], color="C4", label="total loss")
    if (log["cross_entropy"] != 0).any():
        axes[1, 1].plot(x, log["cross_entropy"], color="C5", label="cross-entropy")
    axes[1, 1].set(ylabel="loss", xlabel="iteration")
    axes[1, 1].legend()
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle(title)
    with replacing(path) as temporary:
        # metadata None: the version string would change the bytes without changing the picture
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
