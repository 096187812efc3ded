"""After which epochs a training is looked at, its weights are kept, and which of the kept ones a run has."""

from typing import Annotated, Literal, Protocol

from pydantic import Field

from mebm.files import Record


class Schedule(Protocol):
    """What is read of the section `train` here."""

    epochs: int
    grid_every: int
    keep_every: int


class Choice(Record):
    """Which of the weights that a training kept a run has: after an epoch of several, and by what it was chosen."""

    by: Literal["last", "epoch", "accuracy", "quality"]
    epoch: Annotated[int, Field(ge=1)]
    epochs: Annotated[int, Field(ge=1)]


def look_epochs(train: Schedule) -> list[int]:
    """Epochs after which there is a look: none yet (0), every `grid_every`-th, and the last."""
    return sorted({*range(0, train.epochs + 1, train.grid_every), train.epochs})


def kept_epochs(train: Schedule) -> list[int]:
    """Epochs after which weights are kept: every `keep_every`-th look and the last; none where that is 0."""
    step = train.grid_every * train.keep_every
    return sorted({*range(step, train.epochs + 1, step), train.epochs}) if step else []
