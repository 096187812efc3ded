"""The published iteration once more, plainly: what tests/training/test_replay.py compares training with.

Written from the formulas of docs/method.md, in the release's sign f = -E, in float64, and with nothing of mebm in it:
it has a network, a sampler, an objective, an optimiser, streams of data and augmentation of its own. A run's settings
come as an object with the names of params.yaml, its first weights as a state dict.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

State = dict[str, Tensor]
AVERAGES = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Draws:
    """The random numbers of one iteration.

    data [B], chains [B], labelled [A]: indices; restarts: bool [B]; starts: standard normal, a row per restart, [n, D];
    noise: standard normal [K, B, C, H, W]; shifts: row and column of each crop, [2, A]; flips: bool [A].
    """

    data: Tensor
    chains: Tensor
    restarts: Tensor
    starts: Tensor
    noise: Tensor
    labelled: Tensor
    shifts: Tensor
    flips: Tensor


class Dice:
    """All random numbers of a run, from a generator for each purpose; `of` makes them by name."""

    def __init__(self, train: Any, n_images: int, shape: tuple[int, int, int], dimension: int, of: Callable):
        self.train, self.shape, self.dimension = train, shape, dimension
        self.generators = {name: of(name) for name in ("initial draws", "sgld noise", "chains", "augmentation")}
        self.plain = batches(n_images, train.batch_size, of("plain batches"))
        self.labelled = batches(n_images, train.label_batch_size, of("labelled batches"))
        self.first_chains = self._normal("initial draws", train.buffer_size, dimension)

    def iteration(self) -> Draws:
        train, chains, crops = self.train, self.generators["chains"], self.generators["augmentation"]
        picked = torch.randint(train.buffer_size, (train.batch_size,), generator=chains)
        restarts = torch.rand(train.batch_size, generator=chains) < train.reinit_freq
        starts = self._normal("initial draws", int(restarts.sum()), self.dimension)
        noise = [self._normal("sgld noise", train.batch_size, *self.shape) for _ in range(train.n_steps)]
        labelled, n = torch.zeros(0), 0
        if train.pyx_weight:
            labelled, n = next(self.labelled), train.label_batch_size
        shifts = torch.randint(0, 2 * train.augment_pad + 1, (2, n), generator=crops)
        flips = torch.rand(n, generator=crops) < 0.5
        return Draws(next(self.plain), picked, restarts, starts, torch.stack(noise), labelled, shifts, flips)

    def _normal(self, purpose: str, *size: int) -> Tensor:
        return torch.randn(size, generator=self.generators[purpose], dtype=torch.float64)


def batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices of whole batches, pass after pass, each pass in an order of its own."""
    while True:
        order = torch.randperm(n, generator=generator)
        for first in range(0, n - size + 1, size):
            yield order[first : first + size]


class Initial:
    """clip(mean + L z, -1, 1) with L L' = covariance (divided by N) + ridge, of block means; each fills its block."""

    def __init__(self, images: Tensor, block: int, ridge: float):
        n, channels, side, _ = images.shape
        self.block, self.small = block, (channels, side // block, side // block)
        pixels = (images.double().numpy() / 255 - 0.5) / 0.5
        rows = pixels.reshape(n, channels, side // block, block, side // block, block).mean((3, 5)).reshape(n, -1)
        self.mean = rows.mean(0)
        self.covariance = (rows - self.mean).T @ (rows - self.mean) / n
        self.factor = np.linalg.cholesky(self.covariance + ridge * np.eye(len(self.mean)))

    def draws(self, z: Tensor) -> Tensor:
        """[n, C, H, W] of standard normal [n, D]."""
        x = np.clip(self.mean + z.numpy() @ self.factor.T, -1, 1).reshape(-1, *self.small)
        return torch.from_numpy(np.kron(x, np.ones((self.block, self.block))))


def scaled(images: Tensor) -> Tensor:
    """Bytes to [-1, 1], in float32, which is what a run makes of them."""
    return (images.float() / 255 - 0.5) / 0.5


def augmented(images: Tensor, pad: int, flip: bool, shifts: Tensor, flips: Tensor) -> Tensor:
    """Of each image, mirrored at its edges, a crop of its own size; some of the crops mirrored themselves."""
    side, views = images.shape[-1], []
    for image, row, column, mirrored in zip(images.numpy(), *shifts.tolist(), flips.tolist(), strict=True):
        wide = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        view = wide[:, row : row + side, column : column + side]
        views.append(view[:, :, ::-1] if mirrored and flip else view)
    return torch.from_numpy(np.stack(views))


def features(state: State, x: Tensor) -> Tensor:
    """h(x), [B, F], by the batch's own statistics; moves the running averages in `state`."""

    def conv(name: str, h: Tensor, stride: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(h, weight, state[f"{name}.bias"], stride, padding=weight.shape[-1] // 2)

    def active(name: str, h: Tensor) -> Tensor:
        n = h.numel() // h.shape[1]
        mean = h.mean((0, 2, 3), keepdim=True)
        var = ((h - mean) ** 2).mean((0, 2, 3), keepdim=True)
        for average, now in ((f"{name}.running_mean", mean), (f"{name}.running_var", var * n / (n - 1))):
            state[average] = 0.1 * state[average] + 0.9 * now.detach().flatten()
        state[f"{name}.num_batches_tracked"] = state[f"{name}.num_batches_tracked"] + 1
        weight, bias = (state[f"{name}.{kind}"].view(1, -1, 1, 1) for kind in ("weight", "bias"))
        h = weight * (h - mean) / (var + 1e-5).sqrt() + bias
        return torch.where(h > 0, h, 0.2 * h)

    h, stage = conv("backbone.conv1", x), 1
    while f"backbone.layer{stage}.0.conv1.weight" in state:
        block = 0
        while f"{(name := f'backbone.layer{stage}.{block}')}.conv1.weight" in state:
            stride = 2 if stage > 1 and block == 0 else 1
            inner = conv(f"{name}.conv1", active(f"{name}.bn1", h))
            inner = conv(f"{name}.conv2", active(f"{name}.bn2", inner), stride)
            h = inner + (conv(f"{name}.shortcut.0", h, stride) if f"{name}.shortcut.0.weight" in state else h)
            block += 1
        stage += 1
    return active("backbone.bn1", h).mean((2, 3))


def logits(state: State, x: Tensor) -> Tensor:
    return features(state, x) @ state["class_head.weight"].T + state["class_head.bias"]


def density(state: State, head: str, x: Tensor) -> Tensor:
    """f(x), [B], high on data."""
    if head == "logsumexp":
        return log_sum_exp(logits(state, x))
    return features(state, x) @ state["energy_head.weight"][0] + state["energy_head.bias"]


def log_sum_exp(values: Tensor) -> Tensor:
    largest = values.max(1, keepdim=True).values
    return ((values - largest).exp().sum(1, keepdim=True).log() + largest)[:, 0]


class Replay:
    """A run that starts from a state dict, and its iterations; all that they change can be looked at.

    state: weights and running averages; momentum: of the weights that had a gradient; buffer: chains [M, C, H, W];
    seen: how often something happened that a case must hold to be worth comparing.
    """

    def __init__(self, train: Any, images: Tensor, labels: Tensor | None, state: State, initial: Initial, z: Tensor):
        self.train, self.images, self.labels, self.initial = train, images, labels, initial
        self.state = {name: value.clone() for name, value in state.items()}
        self.weights = [name for name in state if not name.endswith(AVERAGES)]
        self.momentum: State = {}
        self.buffer = initial.draws(z)
        self.iteration = 0
        self.per_epoch = len(images) // (train.batch_size if labels is None else train.label_batch_size)
        self.seen = Counter()

    def step(self, draws: Draws) -> dict[str, float]:
        """One iteration; returns its row of the log, in the sign of energies."""
        train, epoch = self.train, self.iteration // self.per_epoch
        rate = train.lr * train.decay_factor ** sum(epoch >= start for start in train.decay_epochs)
        if self.iteration <= train.warmup_iters:
            rate = rate * self.iteration / train.warmup_iters

        for name in self.weights:
            self.state[name] = self.state[name].detach().requires_grad_(True)
        f_pos = density(self.state, train.head, scaled(self.images[draws.data]).double())
        x_neg, slopes = self.sample(draws)
        f_neg = density(self.state, train.head, x_neg)
        regularisation = (f_pos**2).mean() + f_neg.mean() ** 2
        loss = train.px_weight * (-(f_pos.mean() - f_neg.mean()) + train.l2_coeff * regularisation)
        cross_entropy = torch.zeros(())
        if train.pyx_weight:
            images = self.images[draws.labelled]
            views = augmented(images, train.augment_pad, train.augment_flip, draws.shifts, draws.flips)
            scores, labels = logits(self.state, scaled(views).double()), self.labels[draws.labelled]
            cross_entropy = (log_sum_exp(scores) - scores[range(len(labels)), labels]).mean()
            loss = loss + train.pyx_weight * cross_entropy
            self.seen["augmented images"] += int((views != images).flatten(1).any(1).sum())
        gradients = torch.autograd.grad(loss, [self.state[name] for name in self.weights], allow_unused=True)
        self.descend(dict(zip(self.weights, gradients, strict=True)), rate)

        for index, x in zip(draws.chains.tolist(), x_neg, strict=True):  # of a chain picked twice the last result stays
            self.buffer[index] = x
        row = {"iteration": self.iteration, "epoch": epoch, "lr": rate, "grad_norm": slopes}
        row |= {"energy_pos": -f_pos.mean().item(), "energy_neg": -f_neg.mean().item(), "loss": loss.item()}
        row |= {"energy_l2": regularisation.item(), "cross_entropy": cross_entropy.item()}
        row |= {"energy_gap": row["energy_pos"] - row["energy_neg"]}
        row |= {"x_neg_min": x_neg.min().item(), "x_neg_max": x_neg.max().item()}
        row |= {"x_neg_saturated": ((x_neg == -1) | (x_neg == 1)).double().mean().item()}
        row |= {"x_pos_saturated": ((self.images == 0) | (self.images == 255)).double().mean().item()}
        row |= {"weight_grad_norm": sum((g**2).sum().item() for g in gradients if g is not None) ** 0.5}
        self.iteration += 1
        return row

    def sample(self, draws: Draws) -> tuple[Tensor, float]:
        """x- after K steps from the picked chains, and the mean norm of the last step's gradients."""
        train, x, norm = self.train, self.buffer[draws.chains].clone(), 0.0
        x[draws.restarts] = self.initial.draws(draws.starts)
        self.seen["restarts"] += len(draws.starts)
        self.seen["chains picked again"] += len(draws.chains) - len(set(draws.chains.tolist()))
        for noise in draws.noise:
            x.requires_grad_(True)
            (slope,) = torch.autograd.grad(density(self.state, train.head, x).sum(), x)
            bounded = slope.clamp(-train.grad_bound, train.grad_bound)
            moved = x.detach() + train.step_size * bounded + train.noise_std * noise
            x, norm = moved.clamp(-1, 1), slope.flatten(1).norm(dim=1).mean().item()
            self.seen["gradients bounded"] += int((bounded != slope).sum())
            self.seen["gradients not bounded"] += int((bounded == slope).sum())
            self.seen["pixels clipped"] += int((moved != x).sum())
            self.seen["pixels not clipped"] += int((moved == x).sum())
        return x, norm

    def descend(self, gradients: dict[str, Tensor | None], rate: float) -> None:
        """SGD with momentum and weight decay; a weight without a gradient stays as it is."""
        for name, gradient in gradients.items():
            weight = self.state[name].detach()
            if gradient is not None:
                gradient = gradient + self.train.weight_decay * weight
                before = self.momentum.get(name, torch.zeros_like(weight))
                self.momentum[name] = self.train.momentum * before + gradient
                weight = weight - rate * self.momentum[name]
            self.state[name] = weight
