"""Checks of what archives hold as arrays: rows of pixels, and labels."""

import numpy as np

from mebm.errors import DataError


def rows_to_images(data: object, size: int, origin: str) -> np.ndarray:
    """Channel-first rows, uint8 [n, 3 size size], to images [n, 3, size, size].

    origin: how messages name the rows. Raises DataError for other widths and types, and for channel-last rows.
    """
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * size**2:
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{origin}: data is {found}, expected uint8 rows of {3 * size**2} values; another layout")
    some = data[:: max(1, len(data) // 500)].astype(np.int16)
    # One line down is `size` values away where channels come first, and 3 `size` where they come last.
    first, last = (np.abs(some[:, step:] - some[:, :-step]).mean() for step in (size, 3 * size))
    if last < 0.8 * first:
        raise DataError(f"{origin}: rows look channel-last (RGBRGB...), expected channel-first (R...G...B...)")
    return data.reshape(-1, 3, size, size)


def labels_from(values: object, n: int, low: int, high: int, origin: str) -> np.ndarray:
    """Labels as int64 [n] from 0, given as integers from `low` to `high`. Raises DataError for anything else."""
    plain = isinstance(values, np.ndarray) or (
        isinstance(values, (list, tuple)) and all(isinstance(value, (int, np.integer)) for value in values)
    )
    if not plain and values is not None:  # numpy would unfold lists within lists
        raise DataError(f"{origin}: labels are a {type(values).__name__}, expected {n} integers")
    labels = np.asarray(values if values is not None else [])
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{origin}: {labels.dtype} labels of shape {labels.shape} for {n} images")
    labels = labels.astype(np.int64)
    if n and not (low <= labels.min() and labels.max() <= high):
        raise DataError(f"{origin}: labels run from {labels.min()} to {labels.max()}, expected {low} to {high}")
    return labels - low
