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


def augment(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Reflect padding by `pad`, a random crop back to size, and a horizontal flip with chance 1/2.

    images: uint8 [B, C, H, W]; the result has the same shape and type. Every image gets its own offset and flip, all
    in one gather. The random numbers come from a CPU generator, so no device is waited for. Raises DataError for a
    padding that is not smaller than the image, which it mirrors.
    """
    n, _, height, width = images.shape
    if pad >= min(height, width):
        raise DataError(f"augment_pad is {pad}, expected less than the {min(height, width)} pixels of the images")
    if pad == 0 and not flip:
        return images
    offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    flipped = (torch.rand(n, 1, generator=generator) < 0.5) & flip
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(flipped, columns.flip(1), columns) + offsets[1]
    rows = torch.arange(height) + offsets[0]
    rows, columns = rows.to(images.device, non_blocking=True), columns.to(images.device, non_blocking=True)
    if pad:  # reflect padding is not implemented for bytes
        images = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect").to(images.dtype)
    sample = torch.arange(n, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
