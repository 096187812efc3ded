"""1,797 digits of 8x8 pixels, inside the package scikit-learn."""

from importlib.metadata import version

import numpy as np

from mebm.sources import About, Parts, Wanted

ABOUT = About(
    recipe="1,797 digits of 8x8 with 17 grey levels, spread over 0 to 255.",
    licence="CC BY 4.0 data",
    channels=1,
    counts={"train": 1_797},
    sides=(8,),
    classes=10,
)


def read(wanted: Wanted) -> Parts:
    """All digits at once."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    chunk = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None], digits.target.astype(np.int64)
    origin = f"scikit-learn {version('scikit-learn')}"
    return Parts(iter([chunk]), None, [str(digit) for digit in range(10)], origin=[origin])
