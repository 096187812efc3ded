"""Images in memory: archives, the only conversions between bytes and [-1, 1], and the two training views."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from mebm.errors import DataError
from mebm.files import Record, numbers, read_npz, replacing

MAX_CLASSES = 100_000


class _Counts(Record):
    train: Annotated[int, Field(ge=0)]
    test: Annotated[int, Field(ge=0)]


class Manifest(Record):
    """manifest.json of a prepared data set: (C, H, W), images of each part, and the classes' names."""

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    counts: _Counts
    labels: list[str] | None


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
        raise DataError(f"the held-out images' labels do not fit a classifier of {n_classes} classes; give its own set")


@contextmanager
def writing_images(
    path: str | Path, shape: tuple[int, ...], labels: np.ndarray | None, classes: int | None = None
) -> Iterator[Callable[[np.ndarray], None]]:
    """Write an archive of images piece by piece, whole or not at all.

    shape: (N, C, H, W), all the images that will come; labels: int64 [N] or None; classes: how many there are. Yields a
    function that appends images, uint8 [n, C, H, W]. The archive is an uncompressed .npz with `images`, `labels` and
    `classes`; equal arrays give equal bytes.
    """
    left = shape[0]

    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        with archive.open(zipfile.ZipInfo("images.npy"), "w", force_zip64=True) as member:

            def append(images: np.ndarray) -> None:
                nonlocal left
                if images.dtype != np.uint8 or images.shape[1:] != tuple(shape[1:]) or len(images) > left:
                    raise ValueError(f"{images.dtype} {images.shape} do not go into an archive of {shape}")
                member.write(np.ascontiguousarray(images).tobytes())
                left -= len(images)

            header = {"descr": "|u1", "fortran_order": False, "shape": tuple(map(int, shape))}
            np.lib.format.write_array_header_1_0(member, header)
            yield append
            if left:
                raise ValueError(f"{left} images of {shape[0]} did not come")
        more = {"labels": labels, "classes": None if labels is None else classes}
        for name, values in more.items():
            if values is not None:
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as member:
                    np.lib.format.write_array(member, np.ascontiguousarray(values, np.int64))


def save_images(path: str | Path, images: np.ndarray, labels: np.ndarray | None = None) -> None:
    """Write images (uint8 [N, C, H, W]) and labels (int64 [N]) to an .npz archive."""
    with writing_images(path, images.shape, labels) as append:
        append(images)


def load_images(path: str | Path, shape: tuple[int, int, int] | None = None, allow_empty: bool = False) -> ImageSet:
    """Read an archive written by `save_images`.

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


class BatchStream:
    """An endless shuffled stream of indices into N images: a permutation per pass, its partial last batch dropped.

    Permutations are drawn on the CPU, where their order is the same for every device, and moved in one copy a pass.
    """

    def __init__(self, n: int, batch_size: int, generator: torch.Generator, device: torch.device | str):
        if batch_size > n:
            raise DataError(f"a batch of {batch_size} images was asked of a set of {n}; lower the batch size")
        self.n, self.batch_size, self.generator, self.device = n, batch_size, generator, device
        self.batches_per_pass = n // batch_size
        self._order, self._position = None, self.batches_per_pass

    def state(self) -> dict:
        """Where the stream is: the permutation in use, the position in it, and the generator."""
        order = None if self._order is None else self._order.cpu().clone()
        return {"order": order, "position": self._position, "generator": self.generator.get_state()}

    def load(self, state: dict) -> None:
        """Go on from a state."""
        self._order = None if state["order"] is None else state["order"].to(self.device)
        self._position = state["position"]
        self.generator.set_state(state["generator"])

    def next(self) -> Tensor:
        """Indices of the next batch, int64 [batch_size]."""
        if self._position == self.batches_per_pass:
            self._order, self._position = torch.randperm(self.n, generator=self.generator).to(self.device), 0
        start = self._position * self.batch_size
        self._position += 1
        return self._order[start : start + self.batch_size]


def augment(images: Tensor, pad: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Reflect padding by `pad`, a random crop back to size, and a horizontal flip with chance 1/2.

    images: uint8 [B, C, H, W]; the result has the same shape and type. Every image gets its own offset and flip, all
    in one gather. The random numbers come from a CPU generator, so no device is waited for. Raises DataError for a
    padding that is not smaller than the image, which it mirrors.
    """
    n, _, height, width = images.shape
    if pad >= min(height, width):
        raise DataError(f"augment_pad is {pad}, expected less than the {min(height, width)} pixels of the images")
    if pad == 0 and not flip:
        return images
    offsets = torch.randint(0, 2 * pad + 1, (2, n, 1), generator=generator)
    flipped = (torch.rand(n, 1, generator=generator) < 0.5) & flip
    columns = torch.arange(width).expand(n, width)
    columns = torch.where(flipped, columns.flip(1), columns) + offsets[1]
    rows = torch.arange(height) + offsets[0]
    rows, columns = rows.to(images.device, non_blocking=True), columns.to(images.device, non_blocking=True)
    if pad:  # reflect padding is not implemented for bytes
        images = F.pad(images.float(), (pad, pad, pad, pad), mode="reflect").to(images.dtype)
    sample = torch.arange(n, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[sample, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
