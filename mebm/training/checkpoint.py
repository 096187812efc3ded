"""Checkpoints: weights, chains and the settings that rebuild the model, loaded without executing pickled code."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from mebm.data.images import MAX_CLASSES, ImageSet, check_labels
from mebm.epochs import Choice
from mebm.errors import CheckpointError
from mebm.files import check_state, explained, is_whole, read_torch, replacing
from mebm.method.energy import ARCHITECTURE, EnergyModel, build_model
from mebm.settings.schema import IDLE, Train, asked

MAX_DEPTH = 1000  # of a backbone that is built for a file
FORMAT = "mebm checkpoint"
VERSION = 3
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)  # torch does not compute with smaller ones


Count = Annotated[int, Field(ge=0, lt=2**63)]


class Chosen(Choice):
    """What a checkpoint says of the choice of its weights, as far as it is read again; ema_decay: of averages."""

    ema_decay: float | None = None


class _Record(BaseModel):
    """What a file holds, but for the weights."""

    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)

    format: Literal["mebm checkpoint"]
    version: int
    train: dict[str, Any]
    shape: tuple[Literal[1, 3], Annotated[int, Field(ge=1, le=1024)], int]
    n_classes: Annotated[int, Field(ge=0, le=MAX_CLASSES)]
    iterations: Count
    restarts: Count
    model_state_dict: dict[str, Any]
    replay_buffer: Tensor
    averages: dict[float, dict[str, Any]]
    choice: Chosen | None = None


class _Settings(dict):
    """Settings of a run as its file holds them."""

    def __init__(self, values: dict, path: str | Path):
        super().__init__(values)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(f"{self._path}: lacks the setting train.{key}; give another file, or train the run again")


@dataclass
class Checkpoint:
    """A trained model, its replay buffer ([M, C, H, W] in [-1, 1]) and the `train` settings that made them.

    averages: exponential moving averages of the weights by decay, each by the parameters' names; choice: which of the
    weights that a training kept these are, and by what they were chosen (mebm/training/choice.py), if they were.
    """

    model: EnergyModel
    replay_buffer: Tensor
    train: dict
    shape: tuple[int, int, int]
    n_classes: int
    iterations: int
    restarts: int = 0  # after divergences
    averages: dict[float, dict[str, Tensor]] = field(default_factory=dict)
    choice: dict[str, Any] | None = None

    def no_classifier(self, test: ImageSet | None = None) -> str:
        """Why there is no trained classifier, or why it cannot be judged on these held-out images; empty where it can.

        Raises DataError for labels that do not fit it.
        """
        if not self.train["pyx_weight"]:
            return "no classifier: pyx_weight is 0"
        if test is None:
            return ""
        if not len(test):
            return "no held-out images: all train"
        check_labels(test, self.n_classes)
        return ""


def save_checkpoint(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically; equal contents give equal bytes."""
    record = {
        "format": FORMAT,
        "version": VERSION,
        "train": asked("train", checkpoint.train),
        "shape": tuple(checkpoint.shape),
        "n_classes": checkpoint.n_classes,
        "iterations": checkpoint.iterations,
        "restarts": checkpoint.restarts,
        "model_state_dict": {key: _plain(value) for key, value in checkpoint.model.state_dict().items()},
        "replay_buffer": _plain(checkpoint.replay_buffer),
        "averages": {
            decay: {name: _plain(value) for name, value in weights.items()}
            for decay, weights in checkpoint.averages.items()
        },
        **({} if checkpoint.choice is None else {"choice": checkpoint.choice}),
    }
    # An open file, not a name: torch writes the file's name into the archive, and the temporary one is not stable.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(record, file)


def _plain(value: Tensor | dict) -> Tensor | dict:
    return value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else value


def is_ours(record: Any) -> bool:
    """Whether what a file holds says that it is a checkpoint of this project."""
    return isinstance(record, dict) and record.get("format") == FORMAT


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu", record: Any = None) -> Checkpoint:
    """Read a checkpoint; the model comes in evaluation mode, on `device`. record: what the file holds, if it was read.

    Raises CheckpointError for a file that is truncated, of another format or version, whose weights do not fit its
    own settings, or whose buffer is not images in [-1, 1]. Weights may be anything but another shape: those of a run
    that diverged are not finite.
    """
    advice = "give another file, or train the run again"
    record = read_torch(path, "checkpoint", advice) if record is None else record
    if not is_ours(record) or not _Record.model_fields.keys() >= record.keys() >= {"version"}:
        theirs = isinstance(record, dict) and "model_state_dict" in record and "format" not in record
        advice = "one of the public release is imported, as docs/data.md says" if theirs else advice
        raise CheckpointError(f"{path}: is not a checkpoint of this project; {advice}")
    if type(record["version"]) is not int or record["version"] != VERSION:
        raise CheckpointError(f"{path}: has format version {str(record['version'])[:40]}, expected {VERSION}; {advice}")
    try:
        _Record.model_validate(record)
    except ValidationError as error:
        raise CheckpointError(f"{path}: {explained(error)}; {advice}") from error
    settings = _Settings(IDLE["train"] | record["train"], path)
    if wrong := _wrong_setting(settings):
        raise CheckpointError(f"{path}: {wrong}, which no run can have; {advice}")
    shape, architecture = tuple(record["shape"]), {key: settings[key] for key in ARCHITECTURE}
    if shape[1] != shape[2] or architecture["depth"] > MAX_DEPTH:
        raise CheckpointError(f"{path}: is of images of {shape} and depth {architecture['depth']}; {advice}")
    try:
        with torch.device("meta"):  # so that a size out of range costs nothing
            expected = build_model(shape, record["n_classes"], **architecture).state_dict()
        check_state(record["model_state_dict"], expected)
        model = build_model(shape, record["n_classes"], **architecture)
        model.load_state_dict(record["model_state_dict"])
        weights = {name: value for name, value in expected.items() if name in dict(model.named_parameters())}
        for average in record["averages"].values():
            check_state(average, weights)
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types for a value that it cannot take
        raise CheckpointError(f"{path}: its weights do not fit its own settings; {advice}") from error
    buffer = record["replay_buffer"]
    if not are_images(buffer, shape):
        raise CheckpointError(f"{path}: the replay buffer does not hold images in [-1, 1]; {advice}")
    counts = (record["n_classes"], record["iterations"], record["restarts"])
    return Checkpoint(
        model.to(device).eval(), buffer, settings, shape, *counts, record["averages"], record.get("choice")
    )


def _wrong_setting(train: dict) -> str:
    """Which value no run can have; empty where there is none. Keys may be missing until they are needed."""
    try:
        Train.model_validate(dict(train))
    except ValidationError as error:
        for wrong in error.errors():
            if wrong["type"] not in ("missing", "extra_forbidden"):
                return f"train.{'.'.join(map(str, wrong['loc']))} is {str(wrong['input'])[:40]!r}"
    return ""


def are_images(buffer: Any, shape: tuple[int, int, int]) -> bool:
    """Whether it is at least one image of that shape with values in [-1, 1], as floats."""
    if not is_whole(buffer) or buffer.dtype not in FLOATS or buffer.ndim != 4 or not len(buffer):
        return False
    return tuple(buffer.shape[1:]) == tuple(shape) and bool((buffer.abs() <= 1).all())
