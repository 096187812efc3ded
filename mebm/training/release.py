"""Checkpoints of the public release, under this project's names (docs/method.md, Checkpoints of the release)."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mebm.errors import CheckpointError
from mebm.files import is_whole, read_torch
from mebm.method.energy import ARCHITECTURE, build_model
from mebm.training.checkpoint import FLOATS, Checkpoint, are_images

_RELEASE_NAMES = {"f.": "backbone.", "energy_output.": "energy_head.", "class_output.": "class_head."}


def read_release(
    path: str | Path, train: dict, shape: tuple[int, int, int], n_classes: int, record: Any = None
) -> Checkpoint:
    """A checkpoint of the public release, for the network that `train` describes.

    shape: (C, H, W) of the data set; n_classes: 0 for one without labels, whose class head may have any size; record:
    what the file holds, if it was read. Loaded without executing pickled code. Raises CheckpointError for a file that
    is not one, a parameter that is missing, too many or of another shape, by the name in the file, and a buffer that
    does not hold such images in [-1, 1].
    """
    record = read_torch(path, "checkpoint", "get it again") if record is None else record
    keys = {"model_state_dict", "replay_buffer"}
    if not isinstance(record, dict) or not keys <= set(record):
        raise CheckpointError(f"{path}: lacks model_state_dict or replay_buffer; not a checkpoint of the release")
    theirs = record["model_state_dict"]
    if not isinstance(theirs, dict) or not all(isinstance(key, str) for key in theirs):
        raise CheckpointError(
            f"{path}: its weights are {type(theirs).__name__}, expected tensors by name; get it again"
        )
    state = from_release_state(theirs)
    if len(state) < len(theirs):
        raise CheckpointError(f"{path}: names a parameter twice, with and without a prefix; get it again")
    names = dict(zip(state, theirs, strict=True))
    for key, value in state.items():
        if not is_whole(value):
            raise CheckpointError(
                f"{path}: {names[key]} is {type(value).__name__}, expected a tensor with all its values; get it again"
            )
    head = state.get("class_head.weight")
    n_classes = n_classes or (len(head) if head is not None and head.ndim == 2 else 1)
    architecture = {key: train[key] for key in ARCHITECTURE}
    with torch.device("meta"):
        expected = build_model(shape, n_classes, **architecture).state_dict()
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
    model = build_model(shape, n_classes, **architecture)
    model.load_state_dict({**model.state_dict(), **state})
    buffer = record["replay_buffer"]
    if not are_images(buffer, shape):
        if is_whole(buffer) and buffer.numel() and buffer.dtype in FLOATS:
            found = f"{list(buffer.shape)} from {float(buffer.min()):.3g} to {float(buffer.max()):.3g}"
        elif is_whole(buffer):
            found = f"{list(buffer.shape)} of {str(buffer.dtype).removeprefix('torch.')}"
        else:
            found = f"{type(buffer).__name__} {list(getattr(buffer, 'shape', ()))}"
        raise CheckpointError(
            f"{path}: the replay buffer is {found}, expected images of {list(shape)} in [-1, 1] as floats"
        )
    return Checkpoint(model.eval(), buffer.to(torch.float32), train, tuple(shape), n_classes, 0)


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
