"""A trained model looking at images, batch by batch: energies, class logits, features, gradient norms."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mebm.data.images import bytes_to_unit
from mebm.method.energy import EnergyModel


@dataclass(frozen=True)
class Scores:
    """energy [N], logits [N, n_classes] and features [N, n_features] of N images, float32 on the CPU."""

    energy: Tensor
    logits: Tensor
    features: Tensor


@torch.no_grad()
def score(model: EnergyModel, images: Tensor, batch_size: int) -> Scores:
    """One forward pass of images [N, C, H, W], bytes (uint8) or in [-1, 1], in batches on the model's device.

    BatchNorm does what the model's mode says: running statistics in evaluation mode, which is how a checkpoint is
    loaded, each batch's own within `batch_statistics`.
    """
    parts = []
    for x in _batches(model, images, batch_size):
        features = model.features(x)
        parts.append((model.energy_of(features), model.class_head(features), features))
    return Scores(*(torch.cat([part[i].float().cpu() for part in parts]) for i in range(3)))


def gradient_norms(model: EnergyModel, images: Tensor, batch_size: int) -> Tensor:
    """L2 norm of dE/dx for each image, [N], x in [-1, 1]; images as in `score`."""
    norms = []
    with model.frozen_weights():
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
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm normalises each batch by its own statistics, as in training, and leaves running averages alone.

    It does not see them, rather than averaging with weight 0: that would spread a batch that is not finite.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    before = [(layer.training, layer.track_running_stats) for layer in layers]
    for layer in layers:
        layer.training, layer.track_running_stats = True, False
    try:
        yield
    finally:
        for layer, (training, tracks) in zip(layers, before, strict=True):
            layer.training, layer.track_running_stats = training, tracks


def _batches(model: EnergyModel, images: Tensor, batch_size: int) -> Iterator[Tensor]:
    device = next(model.parameters()).device
    for batch in images.split(batch_size):
        x = batch.to(device)
        yield bytes_to_unit(x) if x.dtype == torch.uint8 else x.detach().clone()
