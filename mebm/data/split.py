"""Splits of a set of images into a kept and a held-out part."""

import numpy as np

from mebm.errors import DataError


def split_stratified(labels: np.ndarray | None, n: int, n_held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the kept and the held-out part of n images, each in random order, classes in their proportions.

    Without labels the split is random. Raises DataError where fewer than one image of a class would be held out or
    kept.
    """
    if n_held_out == 0:
        return np.arange(n), np.arange(0)
    from sklearn.model_selection import train_test_split

    try:
        kept, held_out = train_test_split(np.arange(n), test_size=n_held_out, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{n} images cannot be split with {n_held_out} held out in every class ({error})") from error
    return kept, held_out
