"""Checkpoints: weights, chains and the settings that rebuild the model, loaded without executing pickled code."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mebm.data import ImageSet, check_labels
from mebm.energy import ARCHITECTURE, EnergyModel, build_model
from mebm.errors import CheckpointError, MebmError
from mebm.files import replacing, require, unreadable

FORMAT = "mebm checkpoint"
VERSION = 2
_KEYS = {
    "format",
    "version",
    "train",
    "shape",
    "n_classes",
    "iterations",
    "restarts",
    "model_state_dict",
    "replay_buffer",
}
_RELEASE_NAMES = {"f.": "backbone.", "energy_output.": "energy_head.", "class_output.": "class_head."}


@dataclass
class Checkpoint:
    """A trained model, its replay buffer ([M, C, H, W] in [-1, 1]) and the `train` settings that made them."""

    model: EnergyModel
    replay_buffer: Tensor
    train: dict
    shape: tuple[int, int, int]
    n_classes: int
    iterations: int
    restarts: int = 0  # after divergences

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
        "train": checkpoint.train,
        "shape": tuple(checkpoint.shape),
        "n_classes": checkpoint.n_classes,
        "iterations": checkpoint.iterations,
        "restarts": checkpoint.restarts,
        "model_state_dict": {key: _plain(value) for key, value in checkpoint.model.state_dict().items()},
        "replay_buffer": _plain(checkpoint.replay_buffer),
    }
    # An open file, not a name: torch writes the file's name into the archive, and the temporary one is not stable.
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(record, file)


def _plain(value: Tensor | dict) -> Tensor | dict:
    return value.detach().cpu().contiguous().clone() if isinstance(value, Tensor) else value


def load_checkpoint(path: str | Path, device: torch.device | str = "cpu") -> Checkpoint:
    """Read a checkpoint; the model comes in evaluation mode, on `device`.

    Raises CheckpointError for a file that is truncated, of another format or version, whose weights do not fit its
    own settings, or whose buffer is not images in [-1, 1].
    """
    advice = "give another file, or train the run again"
    record = _read(path, advice)
    if not isinstance(record, dict) or record.get("format") != FORMAT or set(record) != _KEYS:
        raise CheckpointError(f"{path}: is not a checkpoint of this project; {advice}")
    if record["version"] != VERSION:
        raise CheckpointError(f"{path}: has format version {record['version']}, expected {VERSION}; {advice}")
    settings, buffer = record["train"], record["replay_buffer"]
    try:
        model = build_model(
            record["shape"],
            record["n_classes"],
            **{key: settings[key] for key in ARCHITECTURE},
        )
        model.load_state_dict(record["model_state_dict"])
    except (RuntimeError, KeyError, MebmError) as error:
        raise CheckpointError(f"{path}: its weights do not fit its own settings; {advice}") from error
    if tuple(buffer.shape[1:]) != tuple(record["shape"]) or not bool((buffer.abs() <= 1).all()):
        raise CheckpointError(f"{path}: the replay buffer does not hold images in [-1, 1]; {advice}")
    counts = (record["n_classes"], record["iterations"], record["restarts"])
    return Checkpoint(model.to(device).eval(), buffer, settings, tuple(record["shape"]), *counts)


def read_release(path: str | Path, train: dict, shape: tuple[int, int, int], n_classes: int) -> Checkpoint:
    """A checkpoint of the public release, for the network that `train` describes (METHOD: checkpoints of the release).

    shape: (C, H, W) of the data set; n_classes: 0 for one without labels, whose class head may have any size. Loaded
    without executing pickled code. Raises CheckpointError for a file that is not one, a parameter that is missing,
    too many or of another shape, by the name in the file, and a buffer that does not hold such images in [-1, 1].
    """
    record = _read(path, "get it again")
    keys = {"model_state_dict", "replay_buffer"}
    if not isinstance(record, dict) or not keys <= set(record):
        raise CheckpointError(f"{path}: lacks model_state_dict or replay_buffer; it is no checkpoint of the release")
    theirs = record["model_state_dict"]
    state = from_release_state(theirs)
    names = dict(zip(state, theirs, strict=True))
    head = state.get("class_head.weight")
    n_classes = n_classes or (len(head) if head is not None else 1)
    model = build_model(shape, n_classes, **{key: train[key] for key in ARCHITECTURE})
    expected = model.state_dict()
    if missing := [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]:
        old, new = next((old, new) for old, new in _RELEASE_NAMES.items() if missing[0].startswith(new))
        name = old + missing[0].removeprefix(new)
        raise CheckpointError(f"{path}: lacks the parameter {name} ({len(missing)} in all); check depth and width")
    if extra := [key for key in state if key not in expected]:
        raise CheckpointError(f"{path}: has a parameter too many, {names[extra[0]]}; check depth, width and norm")
    for key, value in state.items():
        if value.shape != expected[key].shape:
            raise CheckpointError(
                f"{path}: {names[key]} has shape {list(value.shape)}, expected {list(expected[key].shape)}; check "
                "width, and the data set's classes and channels"
            )
    model.load_state_dict({**expected, **state})
    buffer = record["replay_buffer"]
    if tuple(buffer.shape[1:]) != tuple(shape) or not bool((buffer.abs() <= 1).all()):
        raise CheckpointError(
            f"{path}: the replay buffer is {list(buffer.shape)} from {float(buffer.min()):.3g} to "
            f"{float(buffer.max()):.3g}, expected images of {list(shape)} in [-1, 1]"
        )
    return Checkpoint(model.eval(), buffer.to(torch.float32), train, tuple(shape), n_classes, 0)


def _read(path: str | Path, advice: str) -> object:
    """What a file holds, without executing pickled code; a damaged one ends with the advice."""
    require(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch, zipfile and pickle raise many types for a damaged file
        raise CheckpointError(f"{path}: is not a readable checkpoint ({unreadable(error)}); {advice}") from error


def from_release_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict of the release under this project's names, in the same order."""
    renamed = {}
    for name, value in state.items():
        while name.startswith(("module.", "_orig_mod.")):
            name = name.split(".", 1)[1]
        for old, new in _RELEASE_NAMES.items():
            if name.startswith(old):
                name = new + name.removeprefix(old)
                break
        renamed[name] = value
    return renamed
