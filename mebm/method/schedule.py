"""The optimiser, its learning rate, and how many iterations an epoch has (docs/method.md, Optimisation)."""

import torch

from mebm.errors import DataError
from mebm.method.energy import EnergyModel
from mebm.settings.schema import Train


def make_optimiser(model: EnergyModel, train: Train) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam(0.9, 0.999). A parameter without a gradient is left alone, weight decay included.

    On a GPU the rate is a tensor there: a CUDA graph reads it from its place, where a number would be kept as it was.
    """
    options = {"weight_decay": train.weight_decay, "fused": True}
    device = next(model.parameters()).device
    on_gpu = device.type == "cuda"
    rate = torch.tensor(train.lr, device=device) if on_gpu else train.lr
    if train.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), rate, betas=(0.9, 0.999), capturable=on_gpu, **options)
    return torch.optim.SGD(model.parameters(), rate, train.momentum, **options)


def lr_at(
    iteration: int, epoch: int, *, lr: float, warmup_iters: int, decay_epochs: list[int], decay_factor: float
) -> float:
    """Learning rate of an iteration, both counted from 0.

    Times `decay_factor` at the start of each decay epoch; up to and including iteration `warmup_iters` times
    iteration / warmup_iters. The release divides by zero without warm-up and loses a decay inside it; this does not.
    """
    rate = lr
    for start in decay_epochs:
        if epoch >= start:
            rate *= decay_factor
    return rate * iteration / warmup_iters if iteration < warmup_iters else rate


def iterations_per_epoch(train: Train, n_images: int, labelled: bool) -> int:
    """One pass of the labelled stream, or of the plain stream for a data set without labels; partial batch dropped.

    Raises DataError for a data set that is smaller than a batch.
    """
    batch_size = train.label_batch_size if labelled else train.batch_size
    if n_images < max(batch_size, train.batch_size):
        raise DataError(f"the training set has {n_images} images, fewer than a batch; lower train.label_batch_size")
    return n_images // batch_size
