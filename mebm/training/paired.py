"""x+ and x- in one pass, without the gradients that are 0: the published iteration in fewer and larger kernels.

The numbers are those of separate passes up to rounding, and so are the running averages (docs/performance.md, Pairs).
Layers of the network are replaced by others that hold the same weights and do the same to a batch by itself.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mebm.method.energy import EnergyModel
from mebm.method.iteration import Algorithm, Samples, autocast, terms
from mebm.settings.schema import Train

FLIPPED = {"cpu": (), "cuda": (160,)}  # channels at which `Flipped` was the faster one (docs/performance.md)


def pair(algorithm: Algorithm, model: EnergyModel) -> Algorithm:
    """The algorithm with x+ and x- in one pass; one that has terms of its own keeps the passes that these make.

    The layers of a model with BatchNorm are replaced by those below, in their places.
    """
    norms = [layer for layer in model.modules() if type(layer) is nn.BatchNorm2d]
    for layer in norms:
        layer.__class__ = PairedNorm
        for name in ("mean", "var"):
            layer.register_buffer(f"ahead_{name}", torch.zeros_like(layer.running_mean), persistent=False)
    if norms:
        for layer in model.backbone.modules():
            if type(layer) is nn.Conv2d:
                layer.__class__ = Convolution
                layer.flipped = _fits(layer)
    return replace(algorithm, terms=partial(terms, passes=energies)) if algorithm.terms is terms else algorithm


def energies(
    train: Train, model: EnergyModel, x_pos: Tensor, samples: Callable[[], Samples]
) -> tuple[Tensor, Samples, Tensor]:
    """E(x+), the samples, and E(x-), as mebm.method.iteration.energies makes them, from one pass."""
    with _passed_first(model):
        made = samples()
        with _halves(model), autocast(train, model):
            energy_pos, energy_neg = model.energy(torch.cat([x_pos, made.x_neg])).chunk(2)
    return energy_pos, made, energy_neg


class PairedNorm(nn.BatchNorm2d):
    """BatchNorm that can normalise the halves of a batch [2B, C, H, W] each by its own statistics.

    The second half updates the running averages as a pass of its own does, the first those in `ahead_mean` and
    `ahead_var`.
    """

    halves = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.halves:
            return super().forward(x)
        first, second = x.chunk(2)
        averages = (self.ahead_mean, self.ahead_var) if self.track_running_stats else (None, None)
        first = F.batch_norm(first, *averages, self.weight, self.bias, True, self.momentum, self.eps)
        return torch.cat([first, super().forward(second)])


@contextmanager
def _halves(model: EnergyModel) -> Iterator[None]:
    """Inside, BatchNorm takes a batch for two."""
    layers = [layer for layer in model.modules() if isinstance(layer, PairedNorm)]
    for layer in layers:
        layer.halves = True
    try:
        yield
    finally:
        for layer in layers:
            layer.halves = False


@contextmanager
def _passed_first(model: EnergyModel) -> Iterator[None]:
    """Afterwards, running averages are as if the first half of the pass inside had passed before everything else there.

    They are linear in what each pass adds: n later ones keep (1 - momentum)^n of the difference that it made.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, PairedNorm) and layer.track_running_stats]
    if not layers:
        yield
        return
    # By `data`, since autograd takes averages that change between a pass and its backward pass for a fault.
    averages = [average.data for layer in layers for average in (layer.running_mean, layer.running_var)]
    ahead = [average.data for layer in layers for average in (layer.ahead_mean, layer.ahead_var)]
    before, n_before = [average.clone() for average in averages], layers[0].num_batches_tracked.clone()
    torch._foreach_copy_(ahead, before)
    yield
    later = (layers[0].num_batches_tracked - n_before).to(averages[0].dtype)
    torch._foreach_sub_(ahead, before)
    torch._foreach_mul_(ahead, (1 - layers[0].momentum) ** later)
    torch._foreach_add_(averages, ahead)
    for layer in layers:
        layer.num_batches_tracked.add_(1)


class Convolution(nn.Conv2d):
    """A convolution of a network with BatchNorm, where in training mode no bias changes an energy or a logit.

    What is added to a channel is taken out by the next BatchNorm, also behind shortcuts. So a bias has the gradient 0,
    which is not computed as a sum over all pixels, and weight decay and momentum go on as they do with that sum.
    """

    flipped = False

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        if not self.weight.requires_grad:
            return Flipped.apply(x, self.weight, self.bias) if self.flipped else super().forward(x)
        return _ZeroGradient.apply(self._conv_forward(x, self.weight, self.bias.detach()), self.bias)


def _fits(layer: nn.Conv2d) -> bool:
    """Whether `Flipped` is for this layer, and the faster one."""
    shape = (layer.kernel_size, layer.stride, layer.padding) == ((3, 3), (1, 1), (1, 1))
    return shape and layer.in_channels == layer.out_channels in FLIPPED.get(layer.weight.device.type, ())


class _ZeroGradient(torch.autograd.Function):
    """x, in which a bias has been added that needs no gradient but 0."""

    @staticmethod
    def forward(ctx, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(bias)
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        (bias,) = ctx.saved_tensors
        return gradient, torch.zeros_like(bias)


class Flipped(torch.autograd.Function):
    """A 3x3 convolution of stride 1 with frozen weights, whose gradient to images is a forward convolution.

    Its filters are the flipped ones, with channels in and out changed over.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(weight)
        return F.conv2d(x, weight, bias, padding=1)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        (weight,) = ctx.saved_tensors
        filters = weight.to(gradient.dtype).flip(2, 3).transpose(0, 1)
        return F.conv2d(gradient, filters, padding=1), None, None
