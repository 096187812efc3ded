"""Which of the weights that a training kept a run is made of (docs/method.md, Choice of weights).

A path names either one file or the folder of a training's snapshots, which holds weights of some epochs
(`train.keep_every`). The best ones are chosen on images that the run held out of training: the test split is not read.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from mebm.data.images import ImageSet, unit_to_bytes
from mebm.data.validation import validation_split
from mebm.epochs import kept_epochs
from mebm.errors import CheckpointError, DataError, MetricError, listed, shown
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.evaluation import score
from mebm.measure.features import extract, load_network
from mebm.measure.metrics import frechet_distance
from mebm.measure.networks import FeatureNetwork
from mebm.settings.schema import Train, Weights
from mebm.training.averages import settled, with_average
from mebm.training.checkpoint import Checkpoint
from mebm.training.hub import is_exported
from mebm.training.reading import read_any

HIGHEST = {"accuracy": True, "quality": False}  # whether the highest number is the best one


@dataclass(frozen=True)
class Maker:
    """Makes a run's checkpoint of those of another, as the sections `weights` and `train` say.

    data: the training split; features: file of the data set's feature network, read where quality decides;
    batch_size: images per forward pass of evaluation.
    """

    weights: Weights
    train: Train
    data: ImageSet
    features: Path
    device: torch.device
    batch_size: int

    def make(self, path: str | Path) -> Checkpoint:
        """The checkpoint that a file, or a folder of snapshots, gives. One of the public release comes as it is.

        Raises CheckpointError for files that do not fit, and where there is nothing to choose from or by, and DataError
        where weights are missing that the choice is to be among, and for features that it cannot be made by.
        """
        files, by = kept(path), self.weights.choose
        self._check_whole(path, files)
        values: dict[int, float] = {}
        if by in HIGHEST:
            values = {epoch: self._judged(file) for epoch, file in _looks(path, files, by).items()}
            try:
                epoch = best(values, HIGHEST[by])
            except MetricError as error:
                raise CheckpointError(f"{path}: {error}, so none can be chosen by {by}") from error
        else:
            epoch = picked(path, files, by)
        checkpoint, ours = self._read(files[epoch])
        if not ours:
            return checkpoint
        checkpoint = settled(checkpoint, self.weights, self._parts[0])
        checkpoint.averages = {}
        if epoch is not None:
            checkpoint.choice = {"by": by if by in HIGHEST else "last" if by == "last" else "epoch", "epoch": epoch}
            checkpoint.choice |= {"epochs": self.train.epochs, "ema_decay": self.weights.ema_decay}
        if values:
            checkpoint.choice |= {"values": {str(at): v if math.isfinite(v) else None for at, v in values.items()}}
            checkpoint.choice |= {"n_images": len(self._parts[1]), "split": "validation", "test_split_read": False}
        return checkpoint

    def _check_whole(self, path: str | Path, files: Mapping[int | None, Path]) -> None:
        """Raises DataError where a folder has other epochs to choose among than `train` says were kept.

        An epoch that is asked for by its number does not depend on others, and the last one on none before it.
        """
        by, epochs = self.weights.choose, kept_epochs(self.train)
        if None in files or isinstance(by, int) or not epochs:  # `read_any` refuses other settings by their key
            return
        wanted = epochs[-1:] if by == "last" else epochs
        advice = "give the imported run the section `train` of the run that it is made from"
        if missing := [f"epoch_{epoch:04d}.pt" for epoch in wanted if epoch not in files]:
            raise DataError(
                f"{path}: lacks {listed(missing)}, which train.keep_every of the run keeps; train it again, set "
                f"weights.choose to the number of an epoch that is there, or {advice}"
            )
        if extra := [file.name for epoch, file in files.items() if epoch not in epochs]:
            raise DataError(
                f"{path}: holds {listed(extra)}, which train.keep_every of the run does not keep; remove it, or "
                f"{advice}"
            )

    @cached_property
    def _parts(self) -> tuple[ImageSet, ImageSet | None]:
        """Images that the run trained on, and those that it held out."""
        return validation_split(self.data, self.train.validation_images)

    @cached_property
    def _reference(self) -> tuple[FeatureNetwork, Tensor, Tensor]:
        """What quality is measured by: the feature network, and of the validation images' features by it the mean [D]
        and the covariance [D, D].

        Raises CheckpointError for a file that holds no network, and DataError where there is none, where it is for
        other images, or where its features have no covariance.
        """
        network, images = load_network(self.features, self.device), self._parts[1].images
        if network.channels not in (None, self.data.shape[0]):
            raise DataError(
                f"{self.features}: is for images of {network.channels} channels, but those of the data set have "
                f"{self.data.shape[0]}; run the features stage"
            )
        if len(images) < 2:
            raise DataError("train.validation_images: is 1, but quality is measured on at least 2; choose by accuracy")
        mean, covariance = extract(network, images, self.batch_size)[:2]
        if not bool(torch.isfinite(mean).all() and torch.isfinite(covariance).all()):
            raise DataError(f"{self.features}: gives features that are not finite; run the features stage again")
        return network, mean, covariance

    def _read(self, file: Path) -> tuple[Checkpoint, bool]:
        """The file's checkpoint with the weights that are asked for, and whether it is this project's own."""
        checkpoint, ours = read_any(file, self.train, self.data.shape, self.data.n_classes, self.device)
        if ours and self.weights.ema_decay is not None:
            checkpoint = with_average(checkpoint, self.weights.ema_decay, file)
        return checkpoint, ours

    def _judged(self, file: Path) -> float:
        """How good a file's weights are as the run would have them, on the validation images; NaN for no number."""
        trained_on, validation = self._parts
        by = self.weights.choose
        if validation is None:
            raise CheckpointError(f"{file}: weights.choose is {by}, but train.validation_images of the run is 0")
        network, *moments = self._reference if by == "quality" else (None,)
        checkpoint, ours = self._read(file)
        if not ours:
            raise CheckpointError(f"{file}: is no checkpoint of this project, of which weights.choose can choose")
        if by == "accuracy" and (reason := checkpoint.no_classifier(validation)):
            raise CheckpointError(f"{file}: weights.choose is accuracy, but {reason}")
        steps = {"sgld_steps": 0} if by == "accuracy" else {}  # chains make no difference to it
        checkpoint = settled(checkpoint, self.weights.model_copy(update=steps), trained_on)
        try:
            if by == "accuracy":
                logits = score(checkpoint.model, validation.images, self.batch_size).logits
                return accuracy_and_loss(logits, validation.labels)[0]
            images = unit_to_bytes(checkpoint.replay_buffer)
            return frechet_distance(*moments, *extract(network, images, self.batch_size)[:2])
        except (MetricError, DataError):  # these weights' logits or chains are not finite
            return math.nan


def kept(path: str | Path) -> dict[int | None, Path]:
    """Files of weights by epoch, in order, of a folder of snapshots; one of weights stands for itself, as None.

    Raises CheckpointError where there is none.
    """
    path = Path(path)
    if not path.is_dir() or is_exported(path):
        return {None: path}
    names = ((re.fullmatch(r"epoch_(\d+)\.pt", file.name), file) for file in sorted(path.iterdir()))
    found = {int(match[1]): file for match, file in names if match}
    if not found:
        raise CheckpointError(
            f"{path}: is a folder that holds no epoch_*.pt and no exported model; set train.keep_every of the run that "
            "it is made from, or give a checkpoint.pt or a folder that `python -m mebm export` wrote"
        )
    return dict(sorted(found.items()))


def picked(path: str | Path, files: Mapping[int | None, Path], choose: str | int) -> int | None:
    """The epoch of those in `files` that `choose` names: an epoch, or the last. Raises CheckpointError without it."""
    if not isinstance(choose, int):
        return list(files)[-1]
    if choose not in _looks(path, files, choose):
        raise CheckpointError(f"{path}: weights.choose is {choose}, but weights are kept after epochs {listed(files)}")
    return choose


def _looks(path: str | Path, files: Mapping[int | None, Path], choose: str | int) -> dict[int, Path]:
    if None in files:
        raise CheckpointError(
            f"{path}: weights.choose is {shown(choose)}, but this is a single file; give the folder of the training's "
            "snapshots, or set it to last"
        )
    return dict(files)


def best(values: Mapping[int, float], highest: bool) -> int:
    """The epoch with the highest, or lowest, of these values; of equal ones the earliest. Not finite never wins.

    Raises MetricError where none is finite.
    """
    known = {epoch: value for epoch, value in values.items() if math.isfinite(value)}
    if not known:
        raise MetricError(f"no number of the epochs {listed(values)} is finite")
    sign = -1 if highest else 1
    return min(known, key=lambda epoch: (sign * known[epoch], epoch))


def one_of(path: str | Path, weights: Weights) -> Path:
    """A file of those that `weights` asks for or chooses among. Raises CheckpointError where there is none."""
    files = kept(path)
    of = _looks(path, files, weights.choose) if weights.choose in HIGHEST else files
    return of[picked(path, of, weights.choose)]
