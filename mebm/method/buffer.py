"""The replay buffer: persistent chains in one tensor on the training device. It holds no model."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class ReplayBuffer:
    """Chains [M, C, H, W] in [-1, 1]; changed in place by `write`."""

    images: Tensor

    def __len__(self) -> int:
        return len(self.images)

    def pick(self, batch_size: int, reinit_freq: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Chains picked uniformly with replacement, each of which restarts with chance `reinit_freq`.

        generator: on the CPU, so that how many restart is known without waiting for the device. Returns indices
        (int64 [B]) and which of them restart (bool [B]), on the CPU.
        """
        indices = torch.randint(len(self), (batch_size,), generator=generator)
        return indices, torch.rand(batch_size, generator=generator) < reinit_freq

    def starts(self, indices: Tensor, restarts: Tensor, fresh: Tensor) -> Tensor:
        """Where chains start, a copy [B, C, H, W]: the chains at `indices`, or `fresh` [B, C, H, W] at restarts."""
        return torch.where(restarts[:, None, None, None], fresh, self.images[indices])

    def write(self, indices: Tensor, last: Tensor, x: Tensor) -> None:
        """Put chains x [B, C, H, W] back at `indices`; of an index that was picked twice the last wins.

        last: `last_of(indices)`. Equal indices get equal images, so that their order does not matter on any device.
        """
        self.images[indices] = x[last]


def last_of(indices: Tensor) -> Tensor:
    """For each of the indices (int64 [B], on the CPU) the last position that holds the same one, int64 [B]."""
    numbers = indices.tolist()
    positions = {number: position for position, number in enumerate(numbers)}
    return torch.tensor([positions[number] for number in numbers])
