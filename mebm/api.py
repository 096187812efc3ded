"""A trained run from Python: `mebm.load` and what it gives (docs/use.md).

Images come as tensors or arrays [N, C, H, W], bytes (uint8) or floats in [-1, 1]; numbers and images go back as tensors
on the CPU. A network with BatchNorm is two functions, and `bn_stats` says which one is meant: "running", the default,
normalises by running averages, "batch" by each batch's own statistics (docs/method.md, BatchNorm's statistics).
"""

import os
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mebm.analyses.generate import Chains
from mebm.data.images import unit_to_bytes
from mebm.errors import CheckpointError, DataError, MetricError, ParamsError, shown
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.evaluation import BN_STATS, Scores, score
from mebm.method.buffer import ReplayBuffer
from mebm.method.energy import EnergyModel
from mebm.method.gaussian import load_init
from mebm.settings.suite import load_params
from mebm.training.checkpoint import Checkpoint, load_checkpoint
from mebm.training.hub import is_exported
from mebm.training.reading import read_record

Images = Tensor | np.ndarray


class TrainedRun:
    """A trained model with its replay buffer and the settings that made them; `mebm.load` makes one."""

    def __init__(self, path: Path, checkpoint: Checkpoint):
        self.path, self._checkpoint = path, checkpoint

    def __repr__(self) -> str:
        channels, height, width = self.shape
        size = f"{channels}x{height}x{width}, {self.n_classes} classes, {len(self.buffer)} chains"
        return f"<{self.path}: {size}, after {self._checkpoint.iterations} iterations>"

    @property
    def model(self) -> EnergyModel:
        """The network, in evaluation mode."""
        return self._checkpoint.model

    @property
    def settings(self) -> dict:
        """The section `train` of the run."""
        return dict(self._checkpoint.train)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W) of its images."""
        return self._checkpoint.shape

    @property
    def n_classes(self) -> int:
        """Classes of its data set, 0 without labels."""
        return self._checkpoint.n_classes

    @property
    def buffer(self) -> ReplayBuffer:
        """Its chains, `buffer.images` float32 [M, C, H, W] in [-1, 1]."""
        return ReplayBuffer(self._checkpoint.replay_buffer)

    @property
    def samples(self) -> Tensor:
        """The same chains as bytes, uint8 [M, C, H, W], rounded to the nearest."""
        return unit_to_bytes(self._checkpoint.replay_buffer)

    def energies(self, images: Images, bn_stats: str = "running", batch_size: int = 500) -> Tensor:
        """E(x) of images, float32 [N], low on data. With "batch" the batch size is part of the result."""
        return self._score(images, bn_stats, batch_size).energy

    def logits(self, images: Images, bn_stats: str = "running", batch_size: int = 500) -> Tensor:
        """Class logits of images, float32 [N, n_classes]. Raises CheckpointError for a run without a classifier."""
        if reason := self._checkpoint.no_classifier():
            raise CheckpointError(f"{self.path}: has no logits ({reason}); load a run with a classification head")
        return self._score(images, bn_stats, batch_size).logits

    def features(self, images: Images, bn_stats: str = "running", batch_size: int = 500) -> Tensor:
        """Features h of images, float32 [N, n_features]."""
        return self._score(images, bn_stats, batch_size).features

    def accuracy(self, images: Images, labels: Images, bn_stats: str = "running", batch_size: int = 500) -> float:
        """Share of images whose most probable class is their label, in [0, 1]. labels: integers [N]."""
        logits = self.logits(images, bn_stats, batch_size)
        if not len(logits):
            raise DataError("there are no images, so there is no accuracy; give at least one")
        labels = _tensor(
            labels, "labels", expected := f"expected {len(logits)} integers from 0 to {self.n_classes - 1}"
        )
        if labels.shape != (len(logits),) or labels.is_floating_point():
            raise DataError(f"labels are {labels.dtype} {list(labels.shape)}, {expected}")
        if not bool(((labels >= 0) & (labels < self.n_classes)).all()):
            raise DataError(f"labels run from {labels.min()} to {labels.max()}, {expected}")
        return accuracy_and_loss(logits, labels.cpu().long())[0]

    def sample(
        self,
        count: int,
        steps: int,
        *,
        seed: int = 0,
        bn_stats: str = "batch",
        noise_std: float | None = None,
        grad_bound: float | None = None,
        batch_size: int = 100,
        gaussian: str | Path | None = None,
        on_step: Callable[[int], None] = lambda step: None,
    ) -> Tensor:
        """`count` new samples, uint8 [count, C, H, W], after `steps` steps of SGLD from the initial distribution.

        The same numbers as the stage `generate` with these settings. bn_stats: "batch", as training moved its chains,
        unless asked otherwise; noise_std: None as trained; grad_bound: None for no bound. gaussian: statistics of the
        initial distribution; None: those of the run's data set, found in the project that the run lies in. on_step:
        called after each step with its number. Raises Diverged for a gradient that is not finite.
        """
        _within("count", count, int, 1)
        _within("steps", steps, int, 0)
        _within("seed", seed, int, 0)
        _within("batch_size", batch_size, int, 1)
        if noise_std is not None:
            _within("noise_std", noise_std, float, 0)
        if grad_bound is not None:
            _within("grad_bound", grad_bound, float, 1e-12)
        train = self._checkpoint.train
        uniform = train["init"] == "uniform"
        init = load_init(train["init"], "" if uniform else Path(gaussian or self._gaussian()), self.shape)
        chains = Chains(
            self.model,
            init,
            count,
            seed,
            batch_size=batch_size,
            bn_stats=_known(bn_stats),
            step_size=train["step_size"],
            noise_std=train["noise_std"] if noise_std is None else noise_std,
            grad_bound=grad_bound,
            execution=train.get("execution", "auto"),
        )
        for step in range(steps):
            chains.step()
            on_step(step + 1)
        return chains.images()

    def _gaussian(self) -> Path:
        """Statistics of the run's data set, by the parameters of the project that the run lies in."""
        run = self.path.parent.parent if self.path.parent.name == "train" else self.path.parent
        params = run.parent.parent / "params.yaml"
        advice = "give gaussian=PATH"
        if not params.is_file():
            raise DataError(f"{self.path}: there is no {params} that says what data it was trained on; {advice}")
        runs = load_params(params).runs
        if run.name not in runs:
            raise DataError(f"{self.path}: the suite in {params} has no run {shown(run.name)}; {advice}")
        return run.parent.parent / "data" / runs[run.name].dataset / "gaussian.npz"

    def _score(self, images: Images, bn_stats: str, batch_size: int) -> Scores:
        _within("batch_size", batch_size, int, 1)
        return score(self.model, self._checked(images), batch_size, _known(bn_stats))

    def _checked(self, images: Images) -> Tensor:
        """Images as bytes, or as float32 in [-1, 1]. Raises DataError for any other ones."""
        expected = f"expected uint8, or floats in [-1, 1], [N, {', '.join(map(str, self.shape))}]"
        images = _tensor(images, "images", expected)
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise DataError(f"images are {list(images.shape)}, {expected}")
        if images.dtype == torch.uint8:
            return images
        if not images.is_floating_point():
            raise DataError(f"images are {images.dtype}, {expected}")
        if not bool((images.abs() <= 1).all()):  # also false for NaN
            raise DataError(f"images range from {images.min():.3g} to {images.max():.3g}, {expected}")
        return images.to(torch.float32)


def load(path: str | Path, device: str = "auto") -> TrainedRun:
    """A trained run: of its folder, such as results/mjem_mnist, of a checkpoint's path, or of an exported folder.

    device: "auto" is a GPU where there is one. Raises MebmError, in one line, for a path that holds no checkpoint, one
    that is damaged, and a device that is not there.
    """
    if not isinstance(path, str | os.PathLike):
        raise ParamsError(f"path is {shown(path)}, expected a run's folder or a checkpoint's path")
    path = Path(path)
    if path.is_dir() and not is_exported(path):
        found = [inside for name in ("train/checkpoint.pt", "checkpoint.pt") if (inside := path / name).is_file()]
        if not found:
            raise CheckpointError(f"{path}: holds no train/checkpoint.pt; train the run, or give a checkpoint's path")
        path = found[0]
    device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        raise ParamsError(f"device is {shown(device)}, which is not there; take cpu, or auto") from error
    record = read_record(path, "give another file, or train the run again")
    return TrainedRun(path, load_checkpoint(path, device, record))


def _within(name: str, value: object, kind: type, least: float) -> None:
    if (
        not isinstance(value, Integral if kind is int else Real)
        or isinstance(value, bool)
        or not least <= value < float("inf")
    ):
        expected = "an integer" if kind is int else "a number"
        raise ParamsError(f"{name} is {shown(value)}, expected {expected}, at least {least:g}")


def _tensor(values: object, name: str, expected: str) -> Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(f"{name} are {type(values).__name__}, {expected}") from error


def _known(bn_stats: str) -> str:
    if bn_stats not in BN_STATS:
        raise MetricError(f"bn_stats is {shown(bn_stats)}, expected {' or '.join(BN_STATS)}")
    return bn_stats
