"""One picture as a viewer shows it: upright, in sRGB, laid on a background, 8 bits a channel.

docs/data.md, Your own pictures, says what that means for each kind of picture.
"""

import io
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from mebm.errors import DataError, one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageCms import ImageCmsTransform

    from mebm.sources import Found

FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # as which a picture is decoded, whatever its name says
ORIENTATION = 0x0112  # of EXIF, and what each of its values but 1 asks for
TURNS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}
SRGB_TOLERANCE = 1  # grey levels by which a colour profile may differ from sRGB and count as it
GREY_BITS = {"L;2": 2, "L;4": 4}  # of a pixel, by Pillow's word for how it lies in the file


def decode(file: BinaryIO, origin: str, background: Sequence[int], found: "Found") -> "Image":
    """A picture as RGB; the file is closed.

    origin: how messages name it; background: red, green and blue (0 to 255) behind what is transparent; found: notes
    what kind of picture it was. Raises DataError for a picture that is damaged, of another format or too large.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with file, warnings.catch_warnings(action="ignore"):  # of odd metadata, in several lines
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # only these formats: others run programs, such as Ghostscript for EPS
            image = _shown(Image.open(file, formats=FORMATS), file, tuple(background), found)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{origin}: has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except MemoryError as error:
        raise DataError(f"{origin}: takes more memory than there is; make it smaller, or free memory") from error
    except Exception as error:  # Pillow raises many types for a damaged file
        reason = "no PNG, JPEG, WebP or BMP" if isinstance(error, UnidentifiedImageError) else one_line(error)
        reason = reason or type(error).__name__
        raise DataError(f"{origin}: is not a readable picture ({reason}); replace or remove it") from error
    found.note_size(*image.size)
    return image


def _shown(picture: "Image", file: BinaryIO, background: tuple[int, ...], found: "Found") -> "Image":
    from PIL import Image

    packing = str(picture.tile[0].args) if picture.format == "PNG" and picture.tile else ""
    colours, alpha = _sixteen_bits(picture, packing, file) if ";16" in packing else _eight_bits(picture, packing)
    found.several_frames += getattr(picture, "n_frames", 1) > 1
    if profile := picture.info.get("icc_profile"):
        colours = _in_srgb(colours, profile, found)
    colours = colours if colours.mode == "RGB" else colours.convert("RGB")
    if alpha is not None and alpha.getextrema()[0] < 255:
        found.transparent += 1
        laid = Image.new("RGB", colours.size, background)
        laid.paste(colours, mask=alpha)
        colours = laid
    return _upright(colours, picture, found)


def _eight_bits(picture: "Image", packing: str) -> tuple["Image", "Image | None"]:
    """Colours as L, RGB or CMYK, and opacity as L. Raises ValueError for other kinds of pixels."""
    key = picture.info.get("transparency")  # a colour that is transparent, or of palettes their entries
    picture.load()
    if picture.mode in ("P", "PA"):
        picture = picture.convert("RGBA" if picture.has_transparency_data else "RGB")
    elif picture.mode == "1":
        picture = picture.convert("L")
    if picture.mode in ("LA", "RGBA"):
        alpha = picture.getchannel("A")
        if picture.format == "BMP" and alpha.getextrema() == (0, 0):  # which viewers take for unused
            alpha = None
        return picture.convert(picture.mode[:-1]), alpha
    if picture.mode not in ("L", "RGB", "CMYK"):
        raise ValueError(f"its pixels are of the kind {picture.mode}, which is not read")
    if key is None:
        return picture, None
    most = 2 ** GREY_BITS.get(packing, 8) - 1  # the key is written in the bits of the file
    key = (np.atleast_1d(key) & most) * (255 // most)
    return picture, _opaque_but(key, np.asarray(picture).reshape(*picture.size[::-1], -1))


def _sixteen_bits(picture: "Image", packing: str, file: BinaryIO) -> tuple["Image", "Image | None"]:
    """The same of a PNG of 16 bits a channel, whose values are divided by 257 and rounded.

    Pillow keeps only the upper byte of each value, except in grey pictures.
    """
    from PIL import Image

    key = picture.info.get("transparency")
    if packing == "I;16B":
        values = np.asarray(picture).astype(np.uint16)[..., None]
    elif packing == "LA;16B":  # four bytes per pixel, taken as they lie
        picture.tile = [picture.tile[0]._replace(args="RGBA")]
        values = np.ascontiguousarray(np.asarray(picture)).view(">u2").astype(np.uint16)
    else:
        upper = np.asarray(picture).astype(np.uint16)
        lower = Image.open(file, formats=("PNG",))  # from its start
        lower.tile = [lower.tile[0]._replace(args=f"{packing[:-1]}L")]  # the other byte of each two
        values = upper << 8 | np.asarray(lower)
    rounded = (values // 257 + (values % 257 > 128)).astype(np.uint8)
    channels = rounded.shape[2]
    colours = Image.fromarray(rounded[..., 0] if channels < 3 else rounded[..., :3])
    if channels in (2, 4):
        return colours, Image.fromarray(rounded[..., -1])
    return colours, None if key is None else _opaque_but(key, values)


def _opaque_but(key: "int | Sequence[int] | np.ndarray", values: np.ndarray) -> "Image":
    """Opacity (L) that is 0 where the values, [H, W, channels], are those of the key."""
    from PIL import Image

    return Image.fromarray(np.where((values == key).all(axis=2), np.uint8(0), np.uint8(255)))


def _in_srgb(colours: "Image", profile: bytes, found: "Found") -> "Image":
    """Colours converted from the picture's profile to sRGB; as they are where it is sRGB, or does not fit them."""
    from PIL import ImageCms

    try:
        mode, transform = _transform(profile, colours.mode)
        if transform is None:
            return colours
        converted = ImageCms.applyTransform(colours.convert(mode), transform)
    except (MemoryError, ImportError):
        raise
    except Exception:  # of damaged profiles, of many types
        found.unread += 1
        return colours
    found.to_srgb += 1
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> tuple[str, "ImageCmsTransform | None"]:
    """The mode that pixels need for a transform to sRGB, and the transform; None where that would change nothing.

    Raises ValueError for a profile of other channels than the picture's.
    """
    from PIL import Image, ImageCms

    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    space = source.profile.xcolor_space.strip()
    needed = {("GRAY", "L"): "L", ("RGB", "L"): "RGB", ("RGB", "RGB"): "RGB", ("CMYK", "CMYK"): "CMYK"}
    if (space, mode) not in needed:
        raise ValueError(f"a profile of {space} for a picture of {mode}")
    mode = needed[space, mode]
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return mode, transform
    levels = np.arange(0, 256, 15 if mode == "RGB" else 1, dtype=np.uint8)
    colours = np.stack(np.meshgrid(levels, levels, levels), -1).reshape(1, -1, 3) if mode == "RGB" else levels[None]
    some = Image.fromarray(np.ascontiguousarray(colours))
    after = np.asarray(ImageCms.applyTransform(some, transform)).astype(int)
    same = np.abs(after - np.asarray(some.convert("RGB"))).max() <= SRGB_TOLERANCE
    return mode, None if same else transform


def _upright(image: "Image", picture: "Image", found: "Found") -> "Image":
    """Turned as the picture's EXIF data say."""
    from PIL.Image import Transpose

    try:
        turn = TURNS.get(picture.getexif().get(ORIENTATION))
    except MemoryError:
        raise
    except Exception:  # of damaged EXIF data, of many types
        found.unread += 1
        return image
    return image if turn is None else image.transpose(Transpose[turn])
