"""Does a model memorise? Samples beside the training images that are closest to them, by exact search.

A distance says something only beside another one: that of training images to the nearest *other* training image
(leave-one-out). A sample that is closer to a training image than nearly all of those are to each other is a copy.
"""

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from torch import Tensor

from mebm.data.blocks import block_mean
from mebm.errors import MetricError

CHUNK = 2**23  # numbers of a chunk of rows, 64 MB in float64
COPY_QUANTILE = 0.01
SHOWN_SIDE = 32  # larger images are reduced to this side at most, so that a hundred of them take less than 500 kB


def nearest(queries: Tensor, chunks: Iterable[Tensor], k: int, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Euclidean distances (float64 [Q, k]) and positions (int64 [Q, k]) of the k rows closest to each query.

    queries: [Q, D]; chunks: the rows, [n, D] each, one chunk after another, so that all of them never need to be in
    memory, bytes or floats. own: int64 [Q], for each query the position of the row that it is itself, which does not
    count, or -1. Nearest first, equal distances in the order of the rows, however they are cut into chunks. In float64,
    where sums of products of bytes are exact. Works on the queries' device and returns on the CPU. Raises MetricError
    for values that are not finite and for fewer than k rows.
    """
    queries = queries.double()
    own = torch.full((len(queries),), -1) if own is None else own
    device, norms, start = queries.device, queries.square().sum(1, keepdim=True), 0
    best = torch.full((len(queries), k), torch.inf, dtype=torch.float64, device=device)
    found = torch.full((len(queries), k), -1, device=device)
    for chunk in chunks:
        rows = chunk.to(device).double()
        squared = torch.addmm(rows.square().sum(1), queries, rows.T, alpha=-2).add_(norms)
        if not bool(torch.isfinite(squared).all()):
            raise MetricError("images or features are not finite, so they have no distance")
        itself = ((own >= start) & (own < start + len(rows))).nonzero().squeeze(1)
        squared[itself.to(device), (own[itself] - start).to(device)] = torch.inf
        # Only rows that come among the k of some query are sorted: after the first chunks they are few.
        closer = (squared < best[:, -1:]).any(0).nonzero().squeeze(1)
        all_squared = torch.cat([best, squared[:, closer]], 1)
        order = all_squared.argsort(dim=1, stable=True)[:, :k]
        best = all_squared.gather(1, order)
        found = torch.cat([found, (closer + start).expand(len(queries), -1)], 1).gather(1, order)
        start += len(rows)
    if bool(torch.isinf(best).any()):
        raise MetricError(f"{k} neighbours were asked for, but there are {start} images; lower neighbours.n_neighbours")
    return best.clamp_min_(0).sqrt_().cpu(), found.cpu()


def pixel_chunks(images: Tensor, n_queries: int) -> Iterator[Tensor]:
    """Images, uint8 [N, C, H, W], as rows of bytes [n, C*H*W], so few at a time that a search takes little memory."""
    for chunk in images.split(max(1, CHUNK // max(images[0].numel(), n_queries))):
        yield chunk.flatten(1)


def compare(samples: Tensor, references: Tensor) -> dict:
    """Distances to the nearest training image: of samples [S], and of training images [R] to the nearest other one.

    `mean`, `median` and `smallest` of each, and `quantile_1`, the 1 % quantile of the references (between two of them
    by linear interpolation). `copies`: how many samples are closer than that to a training image. Of samples that were
    as far from the training images as these are from each other, one in a hundred would be.
    """
    limit = float(np.quantile(references, COPY_QUANTILE))
    record = {
        name: {"mean": float(np.mean(d)), "median": float(np.median(d)), "smallest": float(np.min(d))}
        for name, d in (("samples", samples.numpy()), ("references", references.numpy()))
    }
    record["references"]["quantile_1"] = limit
    return record | {"copies": int((samples < limit).sum())}


def mosaic(images: Tensor) -> tuple[np.ndarray, np.ndarray, int]:
    """A picture of images, uint8 [rows, columns, C, H, W], on white, with room under each for a line of text.

    Returns the picture, uint8 [height, width, 3], the left edge of each column and top edge of each row in its pixels
    ([rows, columns, 2], x and y) and the side of an image there. The first column stands a little apart. Images
    of more than 32 pixels are reduced by block means to 32 or somewhat less.
    """
    rows, columns, _, height, _ = images.shape
    small = block_mean(images.flatten(0, 1).float(), -(-height // SHOWN_SIDE)).round().byte()
    side = small.shape[-1]
    small = small.expand(-1, 3, -1, -1).unflatten(0, (rows, columns)).permute(0, 1, 3, 4, 2).numpy()
    gap, line = max(1, side // 8), max(2, round(0.35 * side))
    left = gap + np.arange(columns) * (side + gap) + np.where(np.arange(columns) > 0, 2 * gap, 0)
    top = gap + np.arange(rows) * (side + line)
    picture = np.full((rows * (side + line) + gap, int(left[-1]) + side + gap, 3), 255, np.uint8)
    for i, y in enumerate(top):
        for j, x in enumerate(left):
            picture[y : y + side, x : x + side] = small[i, j]
    return picture, np.stack(np.meshgrid(left, top), axis=-1), side


def draw(axes: Axes, images: Tensor, distances: Tensor, limit: float) -> None:
    """Rows of a sample, framed, and its neighbours with their distances, those below `limit` in red.

    images: uint8 [rows, 1 + k, C, H, W], the sample first; distances: [rows, k].
    """
    picture, corners, side = mosaic(images)
    # "none": the pixels as they are, which the SVG tells viewers to show as squares; "nearest" would resample them here
    axes.imshow(picture, interpolation="none")
    axes.axis("off")
    for row, values in zip(corners, distances.tolist(), strict=True):
        x, y = row[0] - 0.5
        axes.add_patch(Rectangle((x, y), side, side, fill=False, edgecolor="C1", linewidth=2))
        for (x, y), value in zip(row[1:], values, strict=True):
            close = {"color": "C3", "fontweight": "bold"} if value < limit else {"color": "0.2"}
            at = (x + side / 2, y + 1.04 * side)
            axes.text(*at, f"{value:#.3g}", fontsize=6.5, ha="center", va="top", **close)
