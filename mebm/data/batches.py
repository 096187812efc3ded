"""Batches of a data set: the endless shuffled stream of indices, and the augmented view."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mebm.errors import DataError


class BatchStream:
    """An endless shuffled stream of indices into N images: a permutation per pass, its partial last batch dropped.

    Permutations are drawn on the CPU, where their order is the same for every device, and moved in one copy per pass.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, device: torch.device | str):
        if batch_size > n:
            raise DataError(f"a batch of {batch_size} images was asked of a set of {n}; lower the batch size")
        self.n, self.batch_size, self.generator, self.device = n, batch_size, generator, device
        self.batches_per_pass = n // batch_size
        self._order, self._position = None, self.batches_per_pass

    def state(self) -> dict:
        """Where the stream is: the permutation in use, the position in it, and the generator."""
        order = None if self._order is None else self._order.cpu().clone()
        return {"order": order, "position": self._position, "generator": self.generator.get_state()}

    def load(self, state: dict) -> None:
        """Continue from a state."""
        self._order = None if state["order"] is None else state["order"].to(self.device)
        self._position = state["position"]
        self.generator.set_state(state["generator"])

    def next(self) -> Tensor:
        """Indices of the next batch, int64 [batch_size]."""
        if self._position == self.batches_per_pass:
            self._order, self._position = torch.randperm(self.n, generator=self.generator).to(self.device), 0
        start = self._position * self.batch_size
        self._position += 1
        return self._order[start : start + self.batch_size]


def random_crops(
    n: int, height: int, width: int, pad: int, flip: bool, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Rows [n, H] and columns [n, W] that a random crop and flip of each of n padded images takes, int64 on the CPU.

    A crop begins at any of the 2 pad + 1 rows and columns; flips have the chance 1/2. Raises DataError for a padding
    that is not smaller than the image, which it mirrors.
    """
    if pad >= min(height, width):
        raise DataError(f"augment_pad is {pad}, expected less than the {min(height, width)} pixels of the images")
    offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    flipped = (torch.rand(n, 1, generator=generator) < 0.5) & flip
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(flipped, columns.flip(1), columns) + offsets[1]
    return torch.arange(height) + offsets[0], columns


def crop(images: Tensor, pad: int, rows: Tensor, columns: Tensor) -> Tensor:
    """The rows [n, H] and columns [n, W] of images (uint8 [n, C, H, W]) after reflect padding by `pad`.

    All in one gather; the result has the same shape and type.
    """
    if pad:  # reflect padding is not implemented for bytes
        images = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect").to(images.dtype)
    sample = torch.arange(len(images), device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def augment(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Reflect padding by `pad`, a random crop back to size, and a horizontal flip with chance 1/2, of each image.

    images: uint8 [B, C, H, W]; the result has the same shape and type. Raises DataError as `random_crops`.
    """
    if pad == 0 and not flip:
        return images
    n, _, height, width = images.shape
    rows, columns = random_crops(n, height, width, pad, flip, generator)
    return crop(images, pad, rows.to(images.device), columns.to(images.device))
