"""The replay buffer: persistent chains in one tensor on the training device. It holds no model."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ReplayBuffer:
    """Chains [M, C, H, W] in [-1, 1]; changed in place by `write`."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def draw(
        self,
        batch_size: int,
        reinit_freq: float,
        fresh: Callable[[int], Tensor],
        generator: torch.Generator,
    ) -> tuple[Tensor, Tensor]:
        """Pick chains uniformly with replacement; each restarts with chance `reinit_freq`.

        fresh: called with the number of restarts, returns that many draws of the initial distribution, [n, C, H, W].
        generator: on the CPU, so that which chains restart is known without waiting for the device. Returns the
        picked indices (int64 [B], on the CPU) and the start images [B, C, H, W], a copy.
        """
        indices = torch.randint(len(self), (batch_size,), generator=generator)
        restarts = (torch.rand(batch_size, generator=generator) < reinit_freq).nonzero().squeeze(1)
        x_init = self.images[indices.to(self.images.device, non_blocking=True)]
        if len(restarts):
            x_init[restarts.to(x_init.device, non_blocking=True)] = fresh(len(restarts)).to(x_init.dtype)
        return indices, x_init

    def write(self, indices: Tensor, x: Tensor) -> None:
        """Put chains back at `indices` (int64 [B], on the CPU). Of an index that occurs twice the last wins."""
        winners = {int(index): position for position, index in enumerate(indices)}
        positions = torch.tensor(list(winners.values()))
        device = self.images.device
        self.images[indices[positions].to(device, non_blocking=True)] = x[positions.to(device, non_blocking=True)]
