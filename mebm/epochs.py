"""After which epochs a training is looked at, and after which of them its weights are kept."""


def look_epochs(epochs: int, grid_every: int) -> list[int]:
    """Epochs of `train.epochs` after which there is a look: none yet (0), every `grid_every`-th, and the last."""
    return sorted({*range(0, epochs + 1, grid_every), epochs})


def kept_epochs(epochs: int, grid_every: int, keep_every: int) -> list[int]:
    """Epochs after which weights are kept: every `keep_every`-th look and the last; none where that is 0."""
    step = grid_every * keep_every
    return sorted({*range(step, epochs + 1, step), epochs}) if step else []
