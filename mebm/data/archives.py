"""Archives of images on disk, and the manifest of a data set: written and described without PyTorch."""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from mebm.files import Record, replacing


class _Counts(Record):
    train: Annotated[int, Field(ge=0)]
    test: Annotated[int, Field(ge=0)]


class Manifest(Record):
    """manifest.json of a prepared data set: (C, H, W), images of each part, and the classes' names."""

    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=3, max_length=3)]
    counts: _Counts
    labels: list[str] | None


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
