"""Pictures: folders of them, cropping and resampling."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path, PurePath
from typing import TYPE_CHECKING

import numpy as np

from mebm.errors import DataError
from mebm.sources.reading.decoding import decode

if TYPE_CHECKING:
    from PIL.Image import Image

    from mebm.sources import Chunk, Found, Wanted

CHUNK = 1000  # decoded pictures at a time
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
PICTURE_BYTES = 2**28  # of a picture's file
RESAMPLING = "centre crop to a square, then Pillow's bicubic resampling, whose support grows with the reduction"
RECIPE_VERSION = 3  # of sources of pictures, raised when the same files would give other images


def is_hidden(name: str) -> bool:
    """Whether a path is hidden, or in a hidden folder: `.name`, a Mac's twin `._name` of a file, or `__MACOSX`."""
    return any(part.startswith(".") or part == "__MACOSX" for part in PurePath(name).parts)


def listing(folder: Path, found: "Found") -> tuple[list[tuple[Path, int | None]], tuple[str, ...]]:
    """Pictures in a fixed order with labels, and the class names: subfolders that hold pictures.

    Files that are not named as pictures are counted in `found`. Raises DataError where there are no pictures, or some
    both beside and inside subfolders, for a folder that cannot be read, and for what is named as a picture but is no
    file: a named pipe would be waited for.
    """
    above, subfolders = _sorted_out(folder, found)
    inside = {sub.name: _below(sub, found) for sub in sorted(subfolders)}
    inside = {name: paths for name, paths in inside.items() if paths}
    if above and inside:
        raise DataError(f"{folder}: holds pictures both beside and inside subfolders; use one or the other")
    if not above and not inside:
        others = f"; skipped: {found.hidden} hidden files, {found.other.total()} of other formats"
        raise DataError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)}){others}")
    pairs = [(path, None) for path in sorted(above)]
    pairs += [(path, label) for label, paths in enumerate(inside.values()) for path in sorted(paths)]
    for path, _ in pairs:
        _check(path)
    return pairs, tuple(inside)


def note_outside(root: Path, parts: list[Path], found: "Found") -> None:
    """Count the files of a folder that lie in none of its parts."""
    for path in root.iterdir():
        if path not in parts:
            kind = "hidden" if is_hidden(path.name) else "outside"
            setattr(found, kind, getattr(found, kind) + _files(path))


def _below(folder: Path, found: "Found") -> list[Path]:
    """Pictures anywhere below a folder. Links to folders are not followed: they could lead in circles."""
    pictures, left = [], [folder]
    while left:
        here, inner = _sorted_out(left.pop(), found)
        pictures += here
        linked = [path for path in inner if path.is_symlink()]
        found.linked += len(linked)
        left += [path for path in inner if path not in linked]
    return pictures


def _sorted_out(folder: Path, found: "Found") -> tuple[list[Path], list[Path]]:
    """What is named as a picture in a folder, and the subfolders; other files are counted."""
    pictures, subfolders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                path = folder / entry.name
                if is_hidden(entry.name):
                    found.hidden += _files(path)
                elif entry.is_dir():
                    subfolders.append(path)
                elif path.suffix.lower() in SUFFIXES:
                    pictures.append(path)
                else:
                    found.other[path.suffix.lower() or "no suffix"] += 1
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error
    return pictures, subfolders


def _files(path: Path) -> int:
    """Files below a folder that is left out; 1 for a file."""
    if path.is_symlink() or not path.is_dir():
        return 1
    return sum(len(names) for _, _, names in os.walk(path))


def _check(path: Path) -> None:
    try:
        info = path.stat()
    except OSError:  # a link to nothing
        info = None
    if info is None or not stat.S_ISREG(info.st_mode):
        raise DataError(f"{path}: is not a regular file, so it is not a picture; remove it")
    if info.st_size > PICTURE_BYTES:
        raise DataError(f"{path}: has more than the {PICTURE_BYTES} bytes that are read of a picture; make it smaller")


def chunks_of(
    pairs: list[tuple[Path, int | None]], wanted: "Wanted", found: "Found", accepted: tuple[int, ...] | None = None
) -> Iterator["Chunk"]:
    """Pictures and their labels, `CHUNK` at a time, as RGB squares of `wanted.image_size` pixels.

    found: notes what pictures there were; accepted: sides that the files may have. Raises DataError for other ones and
    for what is no picture.
    """
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        images = []
        for path, _ in part:
            image = decode(_opened(path), str(path), wanted.background, found)
            if accepted and (image.size[0] not in accepted or image.size[0] != image.size[1]):
                raise DataError(f"{path}: is {image.size[0]}x{image.size[1]}, expected a square of {accepted} pixels")
            images.append(resized(image, wanted.image_size))
        labelled = part[0][1] is not None
        yield stack(images), np.array([label for _, label in part], np.int64) if labelled else None


def _opened(path: Path):
    try:
        return open(path, "rb")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def resized(image: "Image", size: int) -> "Image":
    """The central square of a picture, resampled to `size` pixels a side as `RESAMPLING` says."""
    from PIL import Image

    side = min(image.size)
    left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BICUBIC)


def stack(images: list["Image"]) -> np.ndarray:
    """RGB pictures of one size as uint8 [n, 3, H, W]."""
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)
