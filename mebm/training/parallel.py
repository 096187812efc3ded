"""One run on several devices: a process each, joined by torch.distributed.

Every rank owns a shard of the replay buffer and takes its share of each batch. BatchNorm uses the statistics of a
rank's own batch. Gradients are averaged once per iteration; SGLD needs nothing from the other ranks.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from mebm.errors import ParamsError


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world() -> int:
    """Number of processes of the run."""
    return dist.get_world_size() if dist.is_initialized() else 1


def launched() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started: NCCL between GPUs, gloo between CPUs."""
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def share(n: int, what: str) -> int:
    """The part of n that one rank takes. Raises ParamsError where n cannot be shared out evenly."""
    if n % world():
        raise ParamsError(f"{what} is {n}, which {world()} processes cannot share evenly; change it or compute.devices")
    return n // world()


def mine(values: Tensor) -> Tensor:
    """This rank's part of a global batch: a contiguous one, in order of ranks."""
    part = share(len(values), "a batch")
    return values[rank() * part : (rank() + 1) * part]


def average_gradients(parameters: list[nn.Parameter], bad: Tensor) -> Tensor:
    """Replace every gradient by its mean over ranks, in one message; returns how many ranks say `bad` (0 or 1 each)."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([bad.reshape(1).to(gradients[0].dtype), *(g.flatten() for g in gradients)])
    dist.all_reduce(flat)
    start = 1
    for gradient in gradients:
        gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient) / world())
        start += gradient.numel()
    return flat[0]


def mean_over_ranks(values: Tensor) -> Tensor:
    """Mean of small values over ranks."""
    if world() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world()


def gathered(shard: Tensor) -> Tensor:
    """The whole of a tensor that is sharded over ranks, on every rank's CPU: row i of rank r is row i * world + r."""
    if world() == 1:
        return shard.cpu().clone()
    parts = [torch.empty_like(shard) for _ in range(world())]
    dist.all_gather(parts, shard.contiguous())
    return torch.stack([part.cpu() for part in parts], dim=1).flatten(0, 1)


def shard_of(whole: Tensor) -> Tensor:
    """This rank's rows of the whole, the inverse of `gathered`."""
    return whole[rank() :: world()]


def of_all_ranks(value: Any) -> list[Any]:
    """A plain value of every rank, in order."""
    if world() == 1:
        return [value]
    values: list[Any] = [None] * world()
    dist.all_gather_object(values, value)
    return values


def any_rank(flag: bool) -> bool:
    """Whether any rank says so. All must ask at the same time."""
    return any(of_all_ranks(flag)) if world() > 1 else flag
