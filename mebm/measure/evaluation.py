"""A trained model looking at images, batch by batch: energies, class logits, features, gradient norms."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mebm.data.images import bytes_to_unit
from mebm.method.energy import EnergyModel
from mebm.method.wideresnet import batch_norms, running_averages_kept

BN_STATS = ("running", "batch")


@dataclass(frozen=True)
class Scores:
    """energy [N], logits [N, n_classes] and features [N, n_features] of N images, float32 on the CPU."""

    energy: Tensor
    logits: Tensor
    features: Tensor


@torch.no_grad()
def score(model: EnergyModel, images: Tensor, batch_size: int, bn_stats: str = "running") -> Scores:
    """One forward pass of images [N, C, H, W], bytes (uint8) or in [-1, 1], in batches on the model's device.

    bn_stats: as in `statistics`; with "batch" the batch size is part of the result.
    """
    parts = []
    with statistics(model, bn_stats):
        for x in _batches(model, images, batch_size):
            features = model.features(x)
            parts.append((model.energy_of(features), model.class_head(features), features))
    return Scores(*(torch.cat([part[i].float().cpu() for part in parts]) for i in range(3)))


def gradient_norms(model: EnergyModel, images: Tensor, batch_size: int, bn_stats: str = "running") -> Tensor:
    """L2 norm of dE/dx for each image, [N], x in [-1, 1]; images and bn_stats as in `score`."""
    norms = []
    with model.frozen_weights(), statistics(model, bn_stats):
        for x in _batches(model, images, batch_size):
            x.requires_grad_(True)
            (gradient,) = torch.autograd.grad(model.energy(x).sum(), x)
            norms.append(gradient.flatten(1).norm(dim=1).cpu())
    return torch.cat(norms)


def gradient_batch(batch_size: int) -> int:
    """Images in a pass that also takes gradients and needs about the memory of a forward pass of `batch_size`.

    A quarter: gradients keep what every layer made (WRN-28-10, 3x32x32: 38 MB an image rather than 8).
    """
    return max(1, batch_size // 4)


@contextmanager
def statistics(model: nn.Module, bn_stats: str = "running") -> Iterator[None]:
    """How a trained model looks at images: inside, dropout is off and BatchNorm normalises by what `bn_stats` says.

    "running", everywhere the default: the running averages, so that images do not depend on each other. "batch": each
    batch's own statistics, as in training (docs/method.md, BatchNorm's statistics). These are two different functions.
    Neither changes the running averages. Modes are restored afterwards. Raises ValueError for another word.
    """
    if bn_stats not in BN_STATS:
        raise ValueError(f"bn_stats is {bn_stats!r}, expected one of {BN_STATS}")
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    by_batch = bn_stats == "batch"
    for layer in batch_norms(model):
        layer.training = by_batch
    try:
        with running_averages_kept(model) if by_batch else nullcontext():
            yield
    finally:
        for module, training in modes:
            module.training = training


def _batches(model: EnergyModel, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    for batch in images.split(batch_size):
        x = batch.to(device)
        yield bytes_to_unit(x) if x.dtype == torch.uint8 else x.detach().clone()
