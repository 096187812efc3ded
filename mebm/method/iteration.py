"""One iteration of training, as published: draw, sample, terms, update (docs/method.md, One iteration).

The four parts stand below in this order, and `iterate` puts them together. An `Algorithm` names the four that a run
takes; another objective or another step of the optimiser replaces one of them (mebm/method/algorithms/).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from mebm.data.batches import augment
from mebm.data.images import ImageSet, bytes_to_unit
from mebm.method.buffer import ReplayBuffer
from mebm.method.energy import EnergyModel
from mebm.method.gaussian import GaussianInit, UniformInit
from mebm.method.loss import classification_term, generative_terms
from mebm.method.sgld import sgld
from mebm.settings.schema import Train

Terms = dict[str, Tensor]  # by name; `loss` is what the update descends


@dataclass(frozen=True)
class Inputs:
    """What an iteration draws from.

    data: images as bytes, with labels, on the model's device. plain, labelled: called for the indices of the next
    batch, int64 [B] of x+ and [A] of the classifier. generators: "initial draws" and "sgld noise" on the model's
    device; "chains", "augmentation" and "dropout" on the CPU.
    """

    data: ImageSet
    plain: Callable[[], Tensor]
    labelled: Callable[[], Tensor]
    buffer: ReplayBuffer
    init: GaussianInit | UniformInit
    generators: dict[str, torch.Generator]


@dataclass(frozen=True)
class Drawn:
    """Data x+ and chain starts [B, C, H, W] in [-1, 1], the chains' indices (int64 [B], on the CPU), and a labelled
    batch, images [A, C, H, W] and labels [A]. None where the weight of the term is 0."""

    x_pos: Tensor | None = None
    x_init: Tensor | None = None
    indices: Tensor | None = None
    labelled: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Samples:
    """Samples x- [B, C, H, W] in [-1, 1], detached, and the mean norm of the last step's gradients, a scalar."""

    x_neg: Tensor
    grad_norm: Tensor


def draw(train: Train, inputs: Inputs) -> Drawn:
    """Data as they are, chains from the buffer or fresh ones, and labelled images with augmentation."""
    x_pos = x_init = indices = labelled = None
    if train.px_weight:
        x_pos = bytes_to_unit(inputs.data.images[inputs.plain()])
        indices, x_init = inputs.buffer.draw(
            len(x_pos),
            train.reinit_freq,
            lambda n: inputs.init.sample(n, inputs.generators["initial draws"]),
            inputs.generators["chains"],
        )
    if train.pyx_weight:
        picked, crop = inputs.labelled(), inputs.generators["augmentation"]
        views = augment(inputs.data.images[picked], train.augment_pad, train.augment_flip, crop)
        labelled = bytes_to_unit(views), inputs.data.labels[picked]
    return Drawn(x_pos, x_init, indices, labelled)


def sample(train: Train, model: EnergyModel, drawn: Drawn, noise: torch.Generator | None = None) -> Samples:
    """K steps of SGLD from the chains' starts; `noise` is the generator of their noise."""
    options = (train.n_steps, train.step_size, train.noise_std, train.grad_bound, noise)
    with model.frozen_weights(), autocast(train, model):
        return Samples(*sgld(model.energy, drawn.x_init, *options))


def terms(train: Train, model: EnergyModel, drawn: Drawn, samples: Callable[[], Samples]) -> Terms:
    """The objective's terms by name, with their weighted sum as `loss` (docs/method.md, Objective).

    samples: called once x+ has passed. Passes run in the order x+, SGLD, x-, labelled, each of its own, because
    BatchNorm normalises each batch by its own statistics and updates its running averages in that order. A weight of
    0 skips its passes.
    """
    found: Terms = {}
    loss = 0.0
    if train.px_weight:
        with autocast(train, model):
            found["energy_pos"] = model.energy(drawn.x_pos)
        made = samples()
        with autocast(train, model):
            found["energy_neg"] = model.energy(made.x_neg)
        found["grad_norm"] = made.grad_norm
        found |= generative_terms(found["energy_pos"], found["energy_neg"], train.l2_coeff)
        loss = train.px_weight * found["loss_px"]
    if train.pyx_weight:
        x, labels = drawn.labelled
        with autocast(train, model):
            found["cross_entropy"] = classification_term(model.logits(x), labels)
        loss = loss + train.pyx_weight * found["cross_entropy"]
    return found | {"loss": loss}


def update(
    train: Train,
    model: EnergyModel,
    objective: Callable[[], Terms],
    optimiser: torch.optim.Optimizer,
    averaged: Callable[[Tensor], None],
) -> Terms:
    """One step of the optimiser down the gradient of `loss`; returns the terms and `weight_grad_norm`.

    objective: the terms at the weights as they are. Called again, at other weights, it makes new forward passes of the
    same batches and the same samples. averaged: to be called with the loss after each backward pass, before its
    gradients are used, for they may be those of one part of the batch.
    """
    found = objective()
    optimiser.zero_grad(set_to_none=True)
    found["loss"].backward()
    averaged(found["loss"])
    norm = gradient_norm(model)
    optimiser.step()
    return found | {"weight_grad_norm": norm}


@dataclass(frozen=True)
class Algorithm:
    """The four parts of an iteration, by default the published ones."""

    draw: Callable[..., Drawn] = draw
    sample: Callable[..., Samples] = sample
    terms: Callable[..., Terms] = terms
    update: Callable[..., Terms] = update


def iterate(
    algorithm: Algorithm,
    train: Train,
    model: EnergyModel,
    optimiser: torch.optim.Optimizer,
    inputs: Inputs,
    averaged: Callable[[Tensor], None] = lambda loss: None,
) -> tuple[Terms, Tensor | None]:
    """One iteration: changes the model, the optimiser and the buffer; returns the terms and the samples x-, if any.

    The learning rate is the optimiser's own. averaged: as in `update`; with one process there is nothing to average.
    """
    drawn = algorithm.draw(train, inputs)
    objective, samples = objective_of(algorithm, train, model, drawn, inputs.generators["sgld noise"])
    with own_dropout(train, model, inputs.generators["dropout"]):
        found = algorithm.update(train, model, objective, optimiser, averaged)
    if drawn.x_init is None:
        return found, None
    x_neg = samples().x_neg
    inputs.buffer.write(drawn.indices, x_neg)
    return found, x_neg


def objective_of(
    algorithm: Algorithm, train: Train, model: EnergyModel, drawn: Drawn, noise: torch.Generator | None = None
) -> tuple[Callable[[], Terms], Callable[[], Samples]]:
    """The terms of what was drawn as a function of the model's weights, and the samples, made when first asked for."""
    samples = cache(lambda: algorithm.sample(train, model, drawn, noise))
    return lambda: algorithm.terms(train, model, drawn, samples), samples


def gradient_norm(model: EnergyModel) -> Tensor:
    """L2 norm of the gradients of all weights that have one, a scalar."""
    return torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])


def autocast(train: Train, model: EnergyModel) -> torch.autocast:
    """The run's precision, for one pass: autocast caches cast weights, and those cast while frozen have no gradient."""
    device = next(model.parameters()).device.type
    return torch.autocast(device, torch.bfloat16, enabled=train.precision == "bf16")


@contextmanager
def own_dropout(train: Train, model: EnergyModel, generator: torch.Generator) -> Iterator[None]:
    """Dropout draws from PyTorch's global generator: inside, that is seeded from our own, and restored behind."""
    if not train.dropout:
        yield
        return
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        yield
