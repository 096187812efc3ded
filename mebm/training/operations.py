"""Arithmetic of a training: iterations, images and floating-point operations, from its settings alone."""

from dataclasses import dataclass

import torch

from mebm.method.algorithms import algorithm
from mebm.method.energy import ARCHITECTURE, build_model
from mebm.method.schedule import iterations_per_epoch
from mebm.settings.schema import Train


@dataclass(frozen=True)
class Cost:
    """images: forward passes of one image; flops: floating-point operations (2 per multiply-add) of all networks."""

    iterations: int
    images: int
    flops: float


def forward_flops(train: Train, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one image's forward pass through the backbone, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = build_model(shape, 1, **network(train))
        with FlopCounterMode(display=False) as counter:
            model.features(torch.empty(2, *shape))
    return counter.get_total_flops() // 2


def training_cost(train: Train, shape: tuple[int, int, int], n_images: int, labelled: bool) -> Cost:
    """Cost of a run. A training pass costs three forward passes, an SGLD step two: no gradient to weights."""
    iterations = iterations_per_epoch(train, n_images, labelled) * train.epochs
    gradients = algorithm(train.algorithm).gradients
    chains = train.batch_size * (6 * gradients + 2 * train.n_steps) if train.px_weight else 0
    classified = 3 * gradients * train.label_batch_size if train.pyx_weight else 0
    images = iterations * (chains + classified)
    return Cost(iterations, images, float(images) * forward_flops(train, shape))


def network(train: Train) -> dict:
    """What builds the run's network."""
    return {key: getattr(train, key) for key in ARCHITECTURE}
