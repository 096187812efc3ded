"""Random numbers: a generator for each purpose, and a choice among n."""

import hashlib

import torch


def generator_for(purpose: str, seed: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator of its own for each purpose, so that using one more or less changes no other's numbers."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(digest[:7], "big"))


def choice(n: int, wanted: int, purpose: str, seed: int) -> torch.Tensor:
    """At most `wanted` of n indices, int64, without replacement, in random order."""
    return torch.randperm(n, generator=generator_for(purpose, seed))[:wanted]
