"""Checkpoints of every format that a run can be made from: ours, exported ones, and those of the public release."""

from pathlib import Path
from typing import Any

import torch

from mebm.errors import CheckpointError
from mebm.files import read_torch
from mebm.settings.schema import Train
from mebm.training.checkpoint import Checkpoint, is_ours, load_checkpoint
from mebm.training.hub import NEEDED, is_exported, read_exported
from mebm.training.release import read_release


def read_record(path: str | Path, advice: str) -> Any:
    """What a checkpoint's file, or an exported folder, holds: for `load_checkpoint` or `read_release` to judge.

    Raises CheckpointError or DataError where it cannot be read.
    """
    return read_exported(path) if is_exported(path) else read_torch(path, "checkpoint", advice)


def read_any(
    path: str | Path,
    train: Train,
    shape: tuple[int, int, int],
    n_classes: int | None,
    device: torch.device | str = "cpu",
) -> tuple[Checkpoint, bool]:
    """A checkpoint that fits a run's settings, and whether it is one of this project, perhaps exported.

    One of 0 iterations, whose training is not known, has to fit in NEEDED only, and then has all settings of the run.
    shape: (C, H, W) of the run's data set; n_classes: its classes, 0 without labels, None where that is not known yet.
    Raises CheckpointError for any other file, by what does not fit, and DataError for a damaged config.json.
    """
    if not Path(path).exists():
        raise CheckpointError(f"{path}: no such file; put the checkpoint there, or give another path")
    record = read_record(path, "get it again")
    if not is_ours(record):
        return read_release(path, train.model_dump(), shape, n_classes or 0, record), False
    checkpoint = load_checkpoint(path, device, record)
    if checkpoint.shape != tuple(shape) or n_classes not in (None, checkpoint.n_classes):
        raise CheckpointError(f"{path}: is of another data set; set that of the run that it is made from")
    settings = train.model_dump()
    for key in settings if checkpoint.iterations else NEEDED:
        if checkpoint.train[key] != settings[key]:
            raise CheckpointError(
                f"{path}: was {'trained' if checkpoint.iterations else 'exported'} with train.{key} "
                f"{checkpoint.train[key]!r}, but here it is {settings[key]!r}; give the imported run the section "
                "`train` of the run that it is made from"
            )
    if not checkpoint.iterations:
        checkpoint.train = settings
    return checkpoint, True
