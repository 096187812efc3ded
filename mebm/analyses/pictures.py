"""The replay buffer, ranked: images in order within predicted classes, and pictures of them with their numbers."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from mebm.errors import MetricError
from mebm.figures.grids import make_grid
from mebm.files import replacing

CELL = 64  # pixels to which a small image is enlarged, at most
DPI = 100


def ranked(values: Tensor, n: int, *, largest: bool) -> Tensor:
    """Indices of the n largest, or smallest, values [N], in that order; equal values keep theirs."""
    return values.argsort(descending=largest, stable=True)[:n]


def ranked_by_class(values: Tensor, predicted: Tensor, n_classes: int, n: int, *, largest: bool) -> list[Tensor]:
    """For each class, the indices of the n images predicted as it whose values [N] are largest, or smallest.

    A class with fewer images gives fewer, an empty one none.
    """
    members = [(predicted == label).nonzero().squeeze(1) for label in range(n_classes)]
    return [member[ranked(values[member], n, largest=largest)] for member in members]


def class_shares(predicted: Tensor, n_classes: int) -> Tensor:
    """Share of the images predicted as each class, float64 [n_classes], sum 1."""
    return torch.bincount(predicted, minlength=n_classes).double() / len(predicted)


def class_summary(shares: Tensor) -> dict:
    """class_shares, empty_classes (how many), class_entropy in nats and its largest value, log n_classes."""
    return {
        "class_shares": [round(float(share), 6) for share in shares],
        "empty_classes": int((shares == 0).sum()),
        "class_entropy": float(torch.special.entr(shares).sum()),
        "class_entropy_at_most": math.log(len(shares)),
    }


def energy_summary(energy: Tensor) -> dict:
    """energy_mean, energy_std (ddof 0), energy_lowest and energy_highest, of energies [N].

    Raises MetricError for one that is not finite.
    """
    if not bool(energy.isfinite().all()):
        raise MetricError("energies of the replay buffer are not finite; the run's weights have diverged")
    energy = energy.double()
    values = {"mean": energy.mean(), "std": energy.std(correction=0), "lowest": energy.min(), "highest": energy.max()}
    return {f"energy_{name}": float(value) for name, value in values.items()}


def draw_groups(
    path: str | Path,
    title: str,
    groups: Sequence[Tensor],
    heads: Sequence[str],
    notes: Sequence[str] = (),
    across: bool = False,
) -> None:
    """Write a PNG of groups of images, each group a row with its head on the left and its note on the right.

    groups: uint8 [n, C, H, W] each, n may differ, but not all be 0; across: each is a column under its head instead.
    Every pixel of an image is a square; places without an image stay white.
    """
    longest, (channels, side, _) = max(map(len, groups)), groups[0].shape[1:]
    cells = torch.full((len(groups), longest, channels, side, side), 255, dtype=torch.uint8)
    for cell, images in zip(cells, groups, strict=True):
        cell[: len(images)] = images
    if across:
        cells = cells.transpose(0, 1)
    grid = make_grid(cells.flatten(0, 1), cells.shape[1]).permute(1, 2, 0)
    scale = max(1, CELL // side)
    height, width = (scale * n for n in grid.shape[:2])
    margins = {"left": 40, "right": 140 if notes else 10, "top": 56 if across else 30, "bottom": 10}
    total = max(margins["left"] + width + margins["right"], 500), margins["top"] + height + margins["bottom"]
    with _drawing(path, *total) as drawn:
        box = (margins["left"] / total[0], margins["bottom"] / total[1], width / total[0], height / total[1])
        axis = drawn.add_axes(box, frameon=False)
        axis.imshow(grid.numpy(), interpolation="nearest")
        centres = [(side + 1) * (index + 0.5) for index in range(len(groups))]
        axis.set(xticks=centres if across else [], yticks=[] if across else centres)
        (axis.set_xticklabels if across else axis.set_yticklabels)(heads)
        axis.tick_params(length=0, labeltop=across, labelbottom=False)
        for centre, note in zip(centres, notes, strict=False):
            place = {"xy": (1, centre), "xycoords": axis.get_yaxis_transform(), "textcoords": "offset points"}
            axis.annotate(note, xytext=(6, 0), va="center", **place)
        drawn.text(margins["left"] / total[0], 1 - 10 / total[1], title, va="top")


def draw_text(path: str | Path, text: str) -> None:
    """Write a PNG that says why there is no picture."""
    with _drawing(path, 500, 80) as drawn:
        drawn.text(0.5, 0.5, text, ha="center", va="center")


@contextmanager
def _drawing(path: str | Path, width: int, height: int) -> Iterator:
    """An empty figure of so many pixels, written to `path` when the block ends."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    with matplotlib.rc_context({"font.size": 8}):
        drawn = plt.figure(figsize=(width / DPI, height / DPI), dpi=DPI)
        try:
            yield drawn
            with replacing(path) as temporary:
                # metadata None: the version string would change the bytes without changing the picture
                drawn.savefig(temporary, format="png", metadata={"Software": None})
        finally:
            plt.close(drawn)
