"""The training loop, in the order of the published algorithm: draw, sample, loss, step, record."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from mebm.buffer import ReplayBuffer
from mebm.data import BatchStream, ImageSet, augment, bytes_to_unit
from mebm.energy import EnergyModel, build_model
from mebm.errors import DataError, Diverged
from mebm.gaussian import GaussianInit, UniformInit
from mebm.loss import classification_term, generative_terms
from mebm.params import Train
from mebm.seeds import generator_for
from mebm.sgld import sgld

LOSS_LIMIT = 1e5  # METHOD: an iteration with |L| above it has diverged
RECORDED = ("energy_pos", "energy_neg", "energy_gap", "energy_l2", "cross_entropy", "loss", "grad_norm")
LOG_COLUMNS = ("iteration", "epoch", "lr", *RECORDED, "x_neg_min", "x_neg_max")


@dataclass
class Trained:
    """What a finished run leaves: the model (in training mode), its chains, and the number of iterations."""

    model: EnergyModel
    buffer: ReplayBuffer
    iterations: int


def lr_at(
    iteration: int, epoch: int, *, lr: float, warmup_iters: int, decay_epochs: list[int], decay_factor: float
) -> float:
    """Learning rate of an iteration, both counted from 0 (METHOD: data and optimisation).

    Times `decay_factor` at the start of each decay epoch; up to and including iteration `warmup_iters` times
    iteration / warmup_iters. The release divides by zero without warm-up and loses a decay inside it; this does not.
    """
    rate = lr
    for start in decay_epochs:
        if epoch >= start:
            rate *= decay_factor
    return rate * iteration / warmup_iters if iteration < warmup_iters else rate


def iterations_per_epoch(train: Train, n_images: int, labelled: bool) -> int:
    """One pass of the labelled stream, or of the plain stream for a data set without labels; partial batch dropped."""
    batch_size = train.label_batch_size if labelled else train.batch_size
    if n_images < max(batch_size, train.batch_size):
        raise DataError(f"the training set has {n_images} images, fewer than a batch; lower train.label_batch_size")
    return n_images // batch_size


def make_optimiser(model: EnergyModel, train: Train) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam(0.9, 0.999). A parameter without a gradient is left alone, weight decay included."""
    if train.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), train.lr, betas=(0.9, 0.999), weight_decay=train.weight_decay)
    return torch.optim.SGD(model.parameters(), train.lr, train.momentum, weight_decay=train.weight_decay)


def forward_passes(
    model: EnergyModel,
    x_pos: Tensor | None,
    x_init: Tensor | None,
    labelled: tuple[Tensor, Tensor] | None,
    train: Train,
    noise: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """One iteration's passes: the objective's terms by name, with their weighted sum as `loss`, and the samples x_neg.

    L = px_weight (gap + l2_coeff l2) + pyx_weight cross-entropy (METHOD: loss). The release only switches the
    cross-entropy by its weight; with weights 0 and 1 that is the same. A weight of 0 skips its passes.

    x_pos, x_init: data and chain starts, [B, C, H, W]; labelled: images [A, C, H, W] and labels [A]. Passes run in
    the order x_pos, SGLD from x_init, x_neg, labelled, each of its own, because BatchNorm normalises each batch by its
    own statistics and updates its running averages in that order.
    """

    def autocast() -> torch.autocast:
        # One context a pass: autocast caches cast weights, and those cast while frozen would carry no gradient.
        device = next(model.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=train.precision == "bf16")

    terms: dict[str, Tensor] = {}
    x_neg, loss = None, 0.0
    if train.px_weight:
        with autocast():
            terms["energy_pos"] = model.energy(x_pos)
        with model.frozen_weights(), autocast():
            x_neg, terms["grad_norm"] = sgld(
                model.energy, x_init, train.n_steps, train.step_size, train.noise_std, train.grad_bound, noise
            )
        with autocast():
            terms["energy_neg"] = model.energy(x_neg)
        terms |= generative_terms(terms["energy_pos"], terms["energy_neg"], train.l2_coeff)
        loss = train.px_weight * terms["loss_px"]
    if train.pyx_weight:
        x_lab, labels = labelled
        with autocast():
            terms["cross_entropy"] = classification_term(model.logits(x_lab), labels)
        loss = loss + train.pyx_weight * terms["cross_entropy"]
    terms["loss"] = loss
    return terms, x_neg


def train_model(
    train: Train,
    data: ImageSet,
    init: GaussianInit | UniformInit,
    device: torch.device,
    on_log: Callable[[dict[str, float], int], None],
    on_grid: Callable[[int, Tensor], None],
) -> Trained:
    """Train on `data` (images as bytes, moved to `device` once) with chains started from `init`.

    on_log: called every `log_every` iterations with a row of LOG_COLUMNS, means over the interval, and the total
    number of iterations. on_grid: called at the end of every `grid_every` epochs and of the last with the epoch and
    the first 100 chains. Raises DataError where labels are needed and missing, Diverged as METHOD defines it; both
    callbacks are the only places where the device is waited for.
    """
    # --- set-up
    if train.pyx_weight and data.labels is None:
        raise DataError("the data set has no labels, so train.pyx_weight must be 0")
    data = data.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator_for("weights", train.seed).initial_seed())
        model = build_model(
            data.shape,
            data.n_classes,
            depth=train.depth,
            width=train.width,
            head=train.head,
            norm=train.norm,
            dropout=train.dropout,
        )
    model.to(device).train()
    if train.compile:
        model.backbone.compile()
    optimiser = make_optimiser(model, train)
    init = init.to(device)
    draw_noise = generator_for("initial draws", train.seed, device)
    sgld_noise = generator_for("sgld noise", train.seed, device)
    choose_chains = generator_for("chains", train.seed)
    crop = generator_for("augmentation", train.seed)
    buffer = ReplayBuffer(init.sample(train.buffer_size, draw_noise))
    plain = BatchStream(len(data), train.batch_size, generator_for("plain batches", train.seed), device)
    labelled_stream = BatchStream(
        len(data), train.label_batch_size, generator_for("labelled batches", train.seed), device
    )
    per_epoch = iterations_per_epoch(train, len(data), data.labels is not None)
    total = per_epoch * train.epochs
    totals = torch.zeros(len(RECORDED), device=device)
    diverged = torch.zeros((), dtype=torch.bool, device=device)
    zero = torch.zeros((), device=device)

    interval = 0
    for iteration in range(total):
        epoch = iteration // per_epoch
        rate = lr_at(
            iteration,
            epoch,
            lr=train.lr,
            warmup_iters=train.warmup_iters,
            decay_epochs=train.decay_epochs,
            decay_factor=train.decay_factor,
        )

        # --- draw
        x_pos = x_init = labelled = None
        if train.px_weight:
            x_pos = bytes_to_unit(data.images[plain.next()])
            indices, x_init = buffer.draw(
                train.batch_size, train.reinit_freq, lambda n: init.sample(n, draw_noise), choose_chains
            )
        if train.pyx_weight:
            picked = labelled_stream.next()
            views = augment(data.images[picked], train.augment_pad, train.augment_flip, crop)
            labelled = bytes_to_unit(views), data.labels[picked]

        # --- sample, loss
        terms, x_neg = forward_passes(model, x_pos, x_init, labelled, train, sgld_noise)
        if x_neg is not None:
            buffer.write(indices, x_neg)

        # --- step
        optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        for group in optimiser.param_groups:
            group["lr"] = rate
        optimiser.step()

        # --- record
        totals += torch.stack([terms.get(key, zero).detach().float().mean() for key in RECORDED])
        diverged |= ~(terms["loss"].detach().abs() <= LOSS_LIMIT)  # also true for NaN
        interval += 1
        last = iteration + 1 == total
        if interval == train.log_every or last:
            if bool(diverged):
                means = dict(zip(RECORDED, (totals / interval).tolist(), strict=True))
                raise Diverged(
                    f"training diverged by iteration {iteration}: loss {means['loss']:.4g}, energies "
                    f"{means['energy_pos']:.4g} (data) and {means['energy_neg']:.4g} (samples); lower train.lr, raise "
                    "train.l2_coeff, or change train.seed"
                )
            row = {"iteration": iteration, "epoch": epoch, "lr": rate}
            row |= dict(zip(RECORDED, (totals / interval).tolist(), strict=True))
            row |= {"x_neg_min": float(x_neg.min()), "x_neg_max": float(x_neg.max())} if x_neg is not None else {}
            on_log(row, total)
            totals.zero_()
            interval = 0
        if (iteration + 1) % per_epoch == 0 and ((epoch + 1) % train.grid_every == 0 or last):
            on_grid(epoch + 1, buffer.images[:100])
    return Trained(model, buffer, total)
