"""Images in memory, and the only conversions between bytes and [-1, 1]."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mebm.errors import DataError
from mebm.files import numbers, read_npz

MAX_CLASSES = 100_000


@dataclass(frozen=True)
class ImageSet:
    """Images as bytes, with labels where the data set has them.

    images: uint8 [N, C, H, W]; labels: int64 [N] in [0, n_classes), or None; classes: how many the data set has, where
    that is known (a small part of it may lack the last ones).
    """

    images: Tensor
    labels: Tensor | None
    classes: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return tuple(self.images.shape[1:])

    @property
    def n_classes(self) -> int:
        """Classes of the data set, by default the largest label plus one; 0 without labels."""
        if self.labels is None:
            return 0
        return self.classes or int(self.labels.max()) + 1

    def to(self, device: torch.device | str) -> "ImageSet":
        """The same set on `device`."""
        labels = None if self.labels is None else self.labels.to(device)
        return ImageSet(self.images.to(device), labels, self.classes)


def check_labels(test: ImageSet, n_classes: int) -> None:
    """Raises DataError for held-out images whose labels are missing or beyond a classifier's classes."""
    if test.labels is None or test.n_classes > n_classes:
        raise DataError(
            f"the held-out images' labels do not fit a classifier of {n_classes} classes; give those of its data set"
        )


def load_images(path: str | Path, shape: tuple[int, int, int] | None = None, allow_empty: bool = False) -> ImageSet:
    """Read an archive that mebm/data/archives.py wrote.

    shape: the (C, H, W) that the caller needs, if it matters. allow_empty: the held-out part of a set that trains on
    all its images is empty. Raises DataError for a missing or damaged file, for
    images that are not uint8 [N, C, H, W] with N > 0 (NaN is reported as such), for another shape, and for labels
    that are negative, not integers, or of another count.
    """
    arrays = read_npz(path, "images", optional=("labels", "classes"))
    images, labels = arrays["images"], arrays.get("labels")
    if images.dtype != np.uint8:
        found = f"dtype {images.dtype}"
        if np.issubdtype(images.dtype, np.floating) and images.size:
            found += (
                " with NaN" if np.isnan(images).any() else f" in the range {images.min():.3g} to {images.max():.3g}"
            )
        raise DataError(f"{path}: images have {found}, expected uint8 (0 to 255); make the archive again from bytes")
    empty = 0 in images.shape[1:] or (images.shape[:1] == (0,) and not allow_empty)
    if images.ndim != 4 or empty or images.shape[1] not in (1, 3) or images.shape[2] != images.shape[3]:
        raise DataError(
            f"{path}: images have shape {list(images.shape)}, expected [N, C, H, W] with N > 0, C 1 or 3, and H = W"
        )
    if shape is not None and images.shape[1:] != tuple(shape):
        raise DataError(
            f"{path}: images are {'x'.join(map(str, images.shape[1:]))} (CxHxW), expected "
            f"{'x'.join(map(str, shape))}; the file belongs to another data set or network"
        )
    if labels is not None:
        if labels.shape != images.shape[:1]:
            raise DataError(f"{path}: {labels.shape} labels for {len(images)} images, expected one for each")
        if not np.issubdtype(labels.dtype, np.integer):
            raise DataError(f"{path}: labels are {labels.dtype}, expected integers from 0")
        if len(labels) and (labels.min() < 0 or labels.max() >= MAX_CLASSES):
            found = f"{labels.min()} to {labels.max()}"
            raise DataError(f"{path}: labels run from {found}, expected integers from 0 to {MAX_CLASSES - 1}")
    if labels is None:
        return ImageSet(torch.from_numpy(images), None)
    classes = None
    if "classes" in arrays:
        classes = int(numbers(path, "classes", arrays["classes"].reshape(-1), (1,))[0])
        if not 1 <= classes <= MAX_CLASSES:
            raise DataError(f"{path}: classes is {classes}, expected 1 to {MAX_CLASSES}; make it again")
    if classes is not None and len(labels) and labels.max() >= classes:
        raise DataError(f"{path}: labels go up to {labels.max()}, but there are {classes} classes; make it again")
    return ImageSet(torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64, copy=False)), classes)


def bytes_to_unit(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Bytes 0..255 to [-1, 1]: (p / 255 - 0.5) / 0.5, as the published code scales them."""
    return images.to(dtype).div_(255).sub_(0.5).div_(0.5)


def unit_to_bytes(x: Tensor, rounding: str = "nearest") -> Tensor:
    """[-1, 1] to bytes: (x + 1) * 127.5, rounded.

    rounding: "nearest" inverts `bytes_to_unit` exactly; "truncate" is what the public release does, which lowers 63
    of the 256 grey levels by one. Raises DataError for values that are not finite or outside [-1, 1].
    """
    if not bool(((x >= -1) & (x <= 1)).all()):  # also false for NaN
        raise DataError(f"pixels range from {x.min():.3g} to {x.max():.3g}, expected finite values in [-1, 1]")
    scaled = (x + 1) * 127.5
    return (scaled.round() if rounding == "nearest" else scaled.trunc()).to(torch.uint8)
