"""Averaged weights of a training, and the checkpoint made of them (docs/method.md, Averaged weights)."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from mebm.data.images import ImageSet, bytes_to_unit
from mebm.errors import CheckpointError
from mebm.method.energy import EnergyModel
from mebm.method.sgld import sgld, step_noise
from mebm.method.wideresnet import running_averages_kept
from mebm.seeds import choice, generator_for
from mebm.settings.schema import Train, Weights
from mebm.training.checkpoint import Checkpoint

BATCH = 100  # images per pass over which BatchNorm's statistics are estimated


class Averages:
    """Exponential moving averages of a model's weights, by decay. They change no number of training."""

    def __init__(self, model: EnergyModel, decays: Iterable[float]):
        self.of = {decay: {name: p.detach().clone() for name, p in model.named_parameters()} for decay in decays}

    @torch.no_grad()
    def update(self, model: EnergyModel, iteration: int) -> None:
        """Take in the weights after an iteration, counted from 0.

        The decay rises to its value as (1 + i) / (10 + i), so that short runs do not average their initial weights.
        """
        for decay, averaged in self.of.items():
            weight = 1 - min(decay, (1 + iteration) / (10 + iteration))
            for name, p in model.named_parameters():
                averaged[name].lerp_(p, weight)

    def state(self) -> dict[float, dict[str, Tensor]]:
        """A copy of the averages on the CPU."""
        return {decay: {name: w.cpu().clone() for name, w in averaged.items()} for decay, averaged in self.of.items()}

    def load(self, state: dict[float, dict[str, Tensor]]) -> None:
        """Go on from a state of the same decays."""
        for decay, averaged in self.of.items():
            for name, w in averaged.items():
                w.copy_(state[decay][name])


def with_average(checkpoint: Checkpoint, decay: float, path: str | Path) -> Checkpoint:
    """The checkpoint, read from `path`, with its average of this decay in its model, which is changed.

    Raises CheckpointError where it has none.
    """
    if decay not in checkpoint.averages:
        known = ", ".join(f"{known:g}" for known in checkpoint.averages) or "none"
        raise CheckpointError(
            f"{path}: the run has no averaged weights of decay {decay:g}, but {known}; set train.ema_decays of the "
            "run that is averaged"
        )
    with torch.no_grad():
        for name, p in checkpoint.model.named_parameters():
            p.copy_(checkpoint.averages[decay][name])
    return checkpoint


def settled(checkpoint: Checkpoint, weights: Weights, data: ImageSet) -> Checkpoint:
    """The checkpoint with BatchNorm's statistics and chains of its own weights, which are changed in place.

    Running averages become the means over `bn_images` training images, in passes of BATCH as training sees them;
    chains move by `sgld_steps` steps on the energy of these weights, as in training.
    """
    train, model = Train.model_validate(dict(checkpoint.train)), checkpoint.model
    device = next(model.parameters()).device
    if weights.bn_images:
        picked = choice(len(data), min(weights.bn_images, len(data)), "BatchNorm's statistics", train.seed)
        passes = (bytes_to_unit(data.images[part].to(device)) for part in picked.split(BATCH) if len(part) > 1)
        torch.optim.swa_utils.update_bn(passes, model)
    chains = checkpoint.replay_buffer.to(device)
    generator = generator_for("noise of settling", train.seed, device)
    model.train()
    with model.frozen_weights(), running_averages_kept(model):
        for start in range(0, len(chains), train.batch_size):
            x = chains[start : start + train.batch_size]
            noise = step_noise(x.shape, weights.sgld_steps, generator) if train.noise_std else None
            options = (weights.sgld_steps, train.step_size, train.noise_std, train.grad_bound, noise)
            chains[start : start + train.batch_size] = sgld(model.energy, x, *options)[0]
    model.eval()
    checkpoint.replay_buffer = chains.cpu()
    return checkpoint
