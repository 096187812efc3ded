"""One iteration of training, as published: choose, draw, sample, terms, update (docs/method.md, One iteration).

The five parts stand below in this order, and `iterate` puts the last four together. What chance decides is chosen
first, by itself, in tensors of fixed shapes: the rest is work for the device alone, the same from one iteration to the
next, which a GPU can be handed in one launch (mebm/training/execution.py). An `Algorithm` names the five parts that a
run takes; another objective or another step of the optimiser replaces one of them (mebm/method/algorithms/).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from mebm.data.batches import crop, random_crops
from mebm.data.images import ImageSet, bytes_to_unit
from mebm.method.buffer import ReplayBuffer, last_of
from mebm.method.energy import EnergyModel
from mebm.method.gaussian import Init
from mebm.method.loss import classification_term, generative_terms
from mebm.method.sgld import sgld, step_noise
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
    init: Init
    generators: dict[str, torch.Generator]


class Choices(NamedTuple):
    """What chance decides in an iteration, on the model's device. None where the weight of its term is 0.

    plain, labelled: indices of images, int64 [B] and [A]. chains: indices of chains, int64 [B]; last: for each of them
    the last position that holds the same one, int64 [B]; restarts: which start anew, bool [B]; fresh: draws of the
    initial distribution where they do and 0 elsewhere, [B, C, H, W]. noise: of SGLD's steps, [K, B, C, H, W], or None
    without noise. rows, columns: those of the padded images that the labelled batch shows, int64 [A, H] and [A, W], or
    None without augmentation.
    """

    plain: Tensor | None = None
    chains: Tensor | None = None
    last: Tensor | None = None
    restarts: Tensor | None = None
    fresh: Tensor | None = None
    noise: Tensor | None = None
    labelled: Tensor | None = None
    rows: Tensor | None = None
    columns: Tensor | None = None


@dataclass(frozen=True)
class Drawn:
    """Data x+ and chain starts [B, C, H, W] in [-1, 1], SGLD's noise [K, B, C, H, W], and a labelled batch, images
    [A, C, H, W] and labels [A]. None where the weight of the term is 0, noise also where there is none."""

    x_pos: Tensor | None = None
    x_init: Tensor | None = None
    noise: Tensor | None = None
    labelled: tuple[Tensor, Tensor] | None = None


@dataclass(frozen=True)
class Samples:
    """Samples x- [B, C, H, W] in [-1, 1], detached, and the mean norm of the last step's gradients, a scalar."""

    x_neg: Tensor
    grad_norm: Tensor


def choose(train: Train, inputs: Inputs) -> Choices:
    """Images, chains, restarts, noise and crops, each by its own generator. Nothing here waits for the device."""
    device, (_, height, width) = inputs.data.images.device, inputs.data.shape
    made: dict[str, Tensor] = {}
    if train.px_weight:
        made["plain"] = inputs.plain()
        indices, restarts = inputs.buffer.pick(len(made["plain"]), train.reinit_freq, inputs.generators["chains"])
        made |= {"chains": indices, "last": last_of(indices), "restarts": restarts}
        shape, dtype = (len(indices), *inputs.data.shape), inputs.buffer.images.dtype
        made["fresh"] = torch.zeros(shape, device=device, dtype=dtype)
        if n := int(restarts.sum()):
            draws = inputs.init.sample(n, inputs.generators["initial draws"])
            made["fresh"][_sent(restarts.nonzero().squeeze(1), device)] = draws
        if train.noise_std:
            made["noise"] = step_noise(shape, train.n_steps, inputs.generators["sgld noise"], dtype)
    if train.pyx_weight:
        made["labelled"] = inputs.labelled()
        if train.augment_pad or train.augment_flip:
            options = (height, width, train.augment_pad, train.augment_flip, inputs.generators["augmentation"])
            made["rows"], made["columns"] = random_crops(len(made["labelled"]), *options)
    return Choices(**{name: _sent(value, device) for name, value in made.items()})


def _sent(value: Tensor, device: torch.device) -> Tensor:
    """The same on `device`; from pinned memory, since a GPU's copies from other memory can wait for earlier work."""
    if value.device == device or device.type != "cuda":
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)


def draw(train: Train, inputs: Inputs, choices: Choices) -> Drawn:
    """Data as they are, chains from the buffer or fresh ones, and labelled images with augmentation."""
    x_pos = x_init = labelled = None
    if train.px_weight:
        x_pos = bytes_to_unit(inputs.data.images[choices.plain])
        x_init = inputs.buffer.starts(choices.chains, choices.restarts, choices.fresh)
    if train.pyx_weight:
        views = inputs.data.images[choices.labelled]
        if choices.rows is not None:
            views = crop(views, train.augment_pad, choices.rows, choices.columns)
        labelled = bytes_to_unit(views), inputs.data.labels[choices.labelled]
    return Drawn(x_pos, x_init, choices.noise, labelled)


def sample(train: Train, model: EnergyModel, drawn: Drawn) -> Samples:
    """K steps of SGLD from the chains' starts."""
    options = (train.n_steps, train.step_size, train.noise_std, train.grad_bound, drawn.noise)
    with model.frozen_weights(), autocast(train, model):
        return Samples(*sgld(model.energy, drawn.x_init, *options))


def energies(
    train: Train, model: EnergyModel, x_pos: Tensor, samples: Callable[[], Samples]
) -> tuple[Tensor, Samples, Tensor]:
    """E(x+), the samples, and E(x-), made in this order, each energy by a pass of its own."""
    with autocast(train, model):
        energy_pos = model.energy(x_pos)
    made = samples()
    with autocast(train, model):
        return energy_pos, made, model.energy(made.x_neg)


def terms(
    train: Train,
    model: EnergyModel,
    drawn: Drawn,
    samples: Callable[[], Samples],
    passes: Callable[..., tuple[Tensor, Samples, Tensor]] = energies,
) -> Terms:
    """The objective's terms by name, with their weighted sum as `loss` (docs/method.md, Objective).

    samples: called once x+ has passed. Passes run in the order x+, SGLD, x-, labelled, each of its own, because
    BatchNorm normalises each batch by its own statistics and updates its running averages in that order. A weight of
    0 skips its passes. passes: how the first three are made; another way leaves the same behind.
    """
    found: Terms = {}
    loss = 0.0
    if train.px_weight:
        found["energy_pos"], made, found["energy_neg"] = passes(train, model, drawn.x_pos, samples)
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
    found = gradient(objective, optimiser, averaged)
    norm = gradient_norm(model)
    optimiser.step()
    return found | {"weight_grad_norm": norm}


@dataclass(frozen=True)
class Algorithm:
    """The five parts of an iteration, by default the published ones.

    gradients: how many the update takes, each of passes of its own, by which the cost of a run is counted.
    """

    choose: Callable[..., Choices] = choose
    draw: Callable[..., Drawn] = draw
    sample: Callable[..., Samples] = sample
    terms: Callable[..., Terms] = terms
    update: Callable[..., Terms] = update
    gradients: int = 1


def iterate(
    algorithm: Algorithm,
    train: Train,
    model: EnergyModel,
    optimiser: torch.optim.Optimizer,
    inputs: Inputs,
    choices: Choices,
    averaged: Callable[[Tensor], None] = lambda loss: None,
) -> tuple[Terms, Tensor | None]:
    """One iteration: changes the model, the optimiser and the buffer; returns the terms and the samples x-, if any.

    The learning rate is the optimiser's own. averaged: as in `update`; with one process there is nothing to average.
    """
    drawn = algorithm.draw(train, inputs, choices)
    objective, samples = objective_of(algorithm, train, model, drawn)
    with own_dropout(train, model, inputs.generators["dropout"]):
        found = algorithm.update(train, model, objective, optimiser, averaged)
    if drawn.x_init is None:
        return found, None
    x_neg = samples().x_neg
    inputs.buffer.write(choices.chains, choices.last, x_neg)
    return found, x_neg


def objective_of(
    algorithm: Algorithm, train: Train, model: EnergyModel, drawn: Drawn
) -> tuple[Callable[[], Terms], Callable[[], Samples]]:
    """The terms of what was drawn as a function of the model's weights, and the samples, made when first asked for."""
    samples = cache(lambda: algorithm.sample(train, model, drawn))
    return lambda: algorithm.terms(train, model, drawn, samples), samples


def gradient(
    objective: Callable[[], Terms], optimiser: torch.optim.Optimizer, averaged: Callable[[Tensor], None]
) -> Terms:
    """The terms, and in the weights the gradient of `loss`, averaged over all processes."""
    found = objective()
    optimiser.zero_grad(set_to_none=True)
    found["loss"].backward()
    averaged(found["loss"])
    return found


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
