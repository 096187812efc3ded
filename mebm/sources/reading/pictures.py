"""Pictures: folders of them, decoding of the accepted formats, cropping and resampling."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mebm.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

    from mebm.sources import Chunk

CHUNK = 1000  # decoded pictures at a time
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # as which a picture is decoded, whatever its name says
PICTURE_BYTES = 2**28  # of a picture's file
RESAMPLING = "centre crop to a square, then Pillow's bicubic resampling, whose support grows with the reduction"


def listing(folder: Path) -> tuple[list[tuple[Path, int | None]], tuple[str, ...]]:
    """Pictures in a fixed order with labels, and the class names: subfolders that hold pictures.

    Raises DataError where there are none, or some both beside and inside subfolders.
    """
    above = _picture_files(folder.iterdir())
    inside = {sub.name: _picture_files(sub.rglob("*")) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    inside = {name: paths for name, paths in inside.items() if paths}
    if above and inside:
        raise DataError(f"{folder}: holds pictures both beside and inside subfolders; use one or the other")
    if not above and not inside:
        raise DataError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)})")
    if above:
        return [(path, None) for path in above], ()
    return [(path, label) for label, paths in enumerate(inside.values()) for path in paths], tuple(inside)


def _picture_files(paths: Iterable[Path]) -> list[Path]:
    """Those named as pictures, in order. Raises DataError for what is no file: a named pipe would be waited for."""
    found = sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir())
    for path in found:
        if not path.is_file():
            raise DataError(f"{path}: is not a regular file, so it is not a picture; remove it")
        if path.stat().st_size > PICTURE_BYTES:
            raise DataError(
                f"{path}: has more than the {PICTURE_BYTES} bytes that are read of a picture; make it smaller"
            )
    return found


def chunks_of(
    pairs: list[tuple[Path, int | None]], size: int, accepted: tuple[int, ...] | None = None
) -> Iterator["Chunk"]:
    """Pictures and their labels, `CHUNK` at a time, as RGB squares of `size` pixels.

    accepted: sides that the files may have. Raises DataError for other ones and for what is no picture.
    """
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        images = []
        for path, _ in part:
            with open(path, "rb") as file:
                image = decode(file, str(path))
            if accepted and (image.size[0] not in accepted or image.size[0] != image.size[1]):
                raise DataError(f"{path}: is {image.size[0]}x{image.size[1]}, expected a square of {accepted} pixels")
            images.append(resized(image, size))
        labelled = part[0][1] is not None
        yield stack(images), np.array([label for _, label in part], np.int64) if labelled else None


def decode(file, origin: str) -> "Image":
    """A picture as RGB; the file is closed. origin: how messages name it.

    Raises DataError for a picture that is damaged, of another format or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with file, warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            # only these formats: others run programs, such as Ghostscript for EPS
            return Image.open(file, formats=FORMATS).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{origin}: has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow raises many types for a damaged file
        reason = "no PNG, JPEG, WebP or BMP" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{origin}: is not a readable picture ({reason})") from error


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
