"""A sharpness-aware step of the optimiser (docs/method.md, Sharpness-aware step)."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from mebm.method.energy import EnergyModel
from mebm.method.iteration import Algorithm, Terms, gradient, gradient_norm
from mebm.method.wideresnet import running_averages_kept
from mebm.settings.schema import Train


def update(
    train: Train,
    model: EnergyModel,
    objective: Callable[[], Terms],
    optimiser: torch.optim.Optimizer,
    averaged: Callable[[Tensor], None],
) -> Terms:
    """One step down the gradient at w + e(w), where e climbs by sam_rho along the gradient g at the weights w.

    e = rho g / |g|, or with `sam_adaptive` rho w^2 g / |w g|, elementwise. The second gradient is of the same data,
    samples and labelled batch: SGLD is not run again, and BatchNorm's running averages stay those of the first passes.
    Returns the terms and the gradient's norm at w.
    """
    found = gradient(objective, optimiser, averaged)
    norm = gradient_norm(model)
    weights = [p for p in model.parameters() if p.grad is not None]
    before = [p.detach().clone() for p in weights]
    climb(weights, train.sam_rho, train.sam_adaptive)
    with running_averages_kept(model):
        gradient(objective, optimiser, averaged)
    with torch.no_grad():
        for p, w in zip(weights, before, strict=True):
            p.copy_(w)
    optimiser.step()
    return found | {"weight_grad_norm": norm}


@torch.no_grad()
def climb(weights: list[nn.Parameter], rho: float, adaptive: bool) -> None:
    """Move weights uphill along their gradients by `rho`, relative to their own sizes if `adaptive`."""
    scales = [p.abs() if adaptive else torch.ones_like(p) for p in weights]
    norm = torch.nn.utils.get_total_norm([s * p.grad for s, p in zip(scales, weights, strict=True)])
    for scale, p in zip(scales, weights, strict=True):
        p += rho * scale.square() * p.grad / (norm + 1e-12)


ALGORITHM = Algorithm(update=update, gradients=2)
