"""Pictures come out as a viewer shows them: transparent, deep, turned, in other colours; or are refused by name."""

import io
import struct
import warnings
import zlib

import archives
import numpy as np
import pytest
from PIL import Image, ImageCms, ImageOps

from mebm.errors import DataError
from mebm.sources import Found
from mebm.sources.reading.decoding import decode

WHITE, RED, GREEN, BLUE = (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)
RNG = np.random.default_rng(0)


def shown(content: bytes, background: tuple[int, int, int] = WHITE) -> tuple[np.ndarray, Found]:
    """What is decoded, int [H, W, 3], and what was found."""
    found = Found()
    with warnings.catch_warnings(action="error"):  # Pillow's would stand between the lines of a log
        image = decode(io.BytesIO(content), "a.png", background, found)
    return np.asarray(image).astype(int), found


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def framed(inside: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """A square of 16 pixels in the middle of 32."""
    values = np.broadcast_to(np.asarray(frame), (32, 32, len(frame))).copy()
    values[8:24, 8:24] = inside
    return values.astype(np.uint8)


def halves(mode: str = "RGB") -> Image.Image:
    """64x32, red on the left and green on the right."""
    values = np.zeros((32, 64, 3), np.uint8)
    values[:, :32], values[:, 32:] = RED, GREEN
    return Image.fromarray(values).convert(mode)


def bmp(values: np.ndarray) -> bytes:
    """A BMP whose header says which bits are opacity, from [H, W, 4]; Pillow writes it with such bits and no word."""
    height, width = values.shape[:2]
    pixels = np.ascontiguousarray(values[::-1, :, [2, 1, 0, 3]]).tobytes()
    masks = struct.pack("<4I4s48x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs")
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(pixels), 2835, 2835, 0, 0) + masks
    return struct.pack("<2sIHHI", b"BM", 122 + len(pixels), 0, 0, 122) + header + pixels


# ---------------------------------------------------------------- transparency

SQUARE = framed(BLUE, WHITE).astype(int)  # as all of these are shown
HIDDEN = framed((*BLUE, 255), (*RED, 0))
INDICES = framed((1,), (0,))
PALETTE = bytes([*RED, *BLUE, *GREEN])
TRANSPARENT = {
    "RGBA, PNG": encoded(Image.fromarray(HIDDEN)),
    "RGBA, WebP": encoded(Image.fromarray(HIDDEN), "WEBP", lossless=True, exact=True),
    "RGBA, BMP": bmp(HIDDEN),
    "a palette with one transparent entry": archives.png(INDICES, 8, 3, PLTE=PALETTE, tRNS=b"\0"),
    "a palette with opacities": archives.png(INDICES, 8, 3, PLTE=PALETTE, tRNS=b"\0\xff\x80"),
    "a palette of 1 bit": archives.png(INDICES, 1, 3, PLTE=PALETTE[:6], tRNS=b"\0\xff"),
    "a transparent colour": archives.png(HIDDEN[..., :3], 8, 2, tRNS=struct.pack(">HHH", *RED)),
    "a transparent colour of 16 bits": archives.png(
        HIDDEN[..., :3].astype(int) * 257, 16, 2, tRNS=struct.pack(">HHH", 65535, 0, 0)
    ),
    "RGBA of 16 bits": archives.png(HIDDEN.astype(int) * 257, 16, 6),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_what_is_transparent_shows_the_background(kind):
    pixels, found = shown(TRANSPARENT[kind])
    assert np.array_equal(pixels, SQUARE)
    assert found.transparent == 1
    assert (found.width, found.height) == ((32, 32), (32, 32))
    pixels, _ = shown(TRANSPARENT[kind], (10, 20, 30))
    assert np.array_equal(pixels, framed(BLUE, (10, 20, 30)))


GREY_ALPHA = framed((200, 255), (90, 0))
KEYED = {  # by bits: grey levels of the square and of the frame, whose level is transparent
    1: (0, 1),
    2: (1, 3),
    4: (5, 9),
    8: (200, 90),
    16: (200 * 257, 90 * 257),
}


@pytest.mark.parametrize("bits", KEYED)
def test_a_transparent_grey_level(bits):
    inside, frame = KEYED[bits]
    values = np.full((32, 32, 1), frame)
    values[8:24, 8:24] = inside
    pixels, found = shown(archives.png(values, bits, 0, tRNS=struct.pack(">H", frame)))
    assert np.array_equal(pixels, framed([round(255 * inside / (2**bits - 1))] * 3, WHITE))
    assert found.transparent == 1


def test_a_transparent_level_of_16_bits_is_exact():
    """Its neighbours, which become the same byte, stay."""
    values = np.array([[[1000], [1001], [1000], [1002]]])
    pixels, _ = shown(archives.png(values, 16, 0, tRNS=struct.pack(">H", 1000)))
    assert pixels[0, :, 0].tolist() == [255, 4, 255, 4]
    values = np.array([[[1000, 5, 7], [1000, 5, 8]]])
    pixels, _ = shown(archives.png(values, 16, 2, tRNS=struct.pack(">HHH", 1000, 5, 7)))
    assert pixels[0].tolist() == [[255, 255, 255], [4, 0, 0]]


@pytest.mark.parametrize("bits", [8, 16])
def test_grey_with_opacity(bits):
    pixels, found = shown(archives.png(GREY_ALPHA.astype(int) * (257 if bits == 16 else 1), bits, 4))
    assert np.array_equal(pixels, framed([200] * 3, WHITE))
    assert found.transparent == 1


@pytest.mark.parametrize(("background", "level"), [(WHITE, 127), ((0, 0, 0), 0), ((100, 100, 100), 50)])
def test_half_transparent_black(background, level):
    for content in (
        encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128))),
        encoded(Image.new("LA", (8, 8), (0, 128))),
        encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "WEBP", lossless=True),
    ):
        assert abs(shown(content, background)[0] - level).max() <= 1


def test_what_is_opaque_is_not_counted_as_transparent():
    opaque = Image.fromarray(RNG.integers(0, 256, (8, 8, 4), np.uint8))
    opaque.putalpha(255)
    for kind in ("PNG", "WEBP"):
        pixels, found = shown(encoded(opaque, kind, lossless=True))
        assert np.array_equal(pixels, np.asarray(opaque)[..., :3])
        assert found.transparent == 0


@pytest.mark.parametrize("content", [bmp(HIDDEN * np.uint8([1, 1, 1, 0])), encoded(Image.fromarray(HIDDEN), "BMP")])
def test_a_bmp_whose_fourth_channel_is_empty_or_nameless_is_opaque(content):
    """Programs write 32 bits a pixel without a use for the last 8; browsers show the colours."""
    pixels, found = shown(content)
    assert np.array_equal(pixels, HIDDEN[..., :3])
    assert found.transparent == 0


# ---------------------------------------------------------------- kinds of pixels


def test_16_bits_of_grey_are_a_ramp():
    ramp = np.arange(0, 65536, 64).reshape(32, 32, 1)
    assert np.array_equal(shown(archives.png(ramp, 16, 0))[0], np.round(ramp / 257).repeat(3, 2))


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_16_bits_of_colour_are_rounded_as_grey_is(colour, channels):
    values = RNG.integers(0, 65536, (8, 9, channels))
    values[0] = np.arange(0, 9)[:, None] * 257 // 2  # where rounding and cutting differ
    if channels in (2, 4):
        values[..., -1] = 65535
    expected = np.round(values[..., : 3 if channels > 2 else 1] / 257)
    assert np.array_equal(shown(archives.png(values, 16, colour))[0], np.broadcast_to(expected, (8, 9, 3)))


def test_interlaced_pictures_of_16_bits():
    """Of a single pixel, whose bytes are the same either way."""
    content = bytearray(archives.png(np.array([[[1000, 30000, 65000]]]), 16, 2))
    content[28] = 1
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    assert shown(bytes(content))[0].tolist() == [[[4, 117, 253]]]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_few_bits_of_grey_reach_white(bits):
    values = np.arange(2**bits).reshape(1, -1, 1)
    expected = np.round(255 * values / (2**bits - 1))
    assert np.array_equal(shown(archives.png(values, bits, 0))[0], expected.repeat(3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB"])
@pytest.mark.parametrize("kind", ["PNG", "BMP"])
def test_modes_without_transparency_are_as_before(mode, kind):
    image = Image.fromarray(archives.pictures(1)[0].transpose(1, 2, 0)).convert(mode)
    pixels, found = shown(encoded(image, kind))
    assert np.array_equal(pixels, np.asarray(image.convert("RGB")))
    assert (found.transparent, found.several_frames, found.to_srgb, found.unread) == (0, 0, 0, 0)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_photographs_are_as_before(kind):
    content = archives.encode(archives.pictures(1)[0], kind)
    assert np.array_equal(shown(content)[0], np.asarray(Image.open(io.BytesIO(content))))


def test_cmyk_is_red_and_green():
    pixels, _ = shown(encoded(halves("CMYK"), "JPEG"))
    assert abs(pixels[:, 2:30] - RED).max() <= 2
    assert abs(pixels[:, 34:62] - GREEN).max() <= 2


def test_grey_jpeg():
    pixels, _ = shown(encoded(Image.new("L", (8, 8), 77), "JPEG"))
    assert (pixels == 77).all()


# ---------------------------------------------------------------- orientation, frames


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_pictures_are_turned_as_their_exif_data_say(orientation, kind):
    image = Image.fromarray(archives.pictures(1)[0].transpose(1, 2, 0)).crop((0, 0, 32, 20))
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encoded(image, kind, exif=exif)
    pixels, found = shown(content)
    assert np.array_equal(pixels, np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content)))))
    assert (found.width[0], found.height[0]) == ((32, 20) if orientation < 5 else (20, 32))


def test_orientation_6_and_3():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels, _ = shown(encoded(halves(), "JPEG", exif=exif))
    assert pixels.shape == (64, 32, 3)
    assert abs(pixels[2:30] - RED).max() <= 3
    assert abs(pixels[34:62] - GREEN).max() <= 3
    exif[0x0112] = 3
    pixels, _ = shown(encoded(halves(), "JPEG", exif=exif))
    assert abs(pixels[:, 2:30] - GREEN).max() <= 3


def test_orientation_and_transparency_at_once():
    exif = Image.Exif()
    exif[0x0112] = 6
    values = np.zeros((4, 8, 4), np.uint8)
    values[:, 4:] = (*BLUE, 255)
    pixels, _ = shown(encoded(Image.fromarray(values), exif=exif))
    assert (pixels[:4] == WHITE).all()
    assert (pixels[4:] == BLUE).all()


@pytest.mark.parametrize("exif", [b"Exif\0\0MM", b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff"])
def test_damaged_exif_data_are_left_aside(exif):
    image = Image.new("RGB", (8, 4), BLUE)
    pixels, found = shown(encoded(image, "PNG", exif=exif))
    assert np.array_equal(pixels, np.asarray(image))
    assert found.unread in (0, 1)  # some damage reads as no entries
    _, found = shown(encoded(image, "PNG", exif=b"Exif\0\0nonsense"))
    assert found.unread == 1


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "MPO"])
def test_of_several_frames_the_first_is_taken(kind):
    frames = [Image.new("RGB", (16, 16), colour) for colour in (RED, GREEN, BLUE)]
    options = {} if kind == "MPO" else {"lossless": True}
    pixels, found = shown(encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert abs(pixels - RED).max() <= 2
    assert found.several_frames == 1
    assert shown(encoded(frames[0]))[1].several_frames == 0


# ---------------------------------------------------------------- colour profiles

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SWAPPED = SRGB.replace(b"rXYZ", b"tmpX", 1).replace(b"gXYZ", b"rXYZ", 1).replace(b"tmpX", b"gXYZ", 1)


def linear_grey() -> bytes:
    """A profile of grey levels that are proportional to light."""
    white, curve = b"XYZ \0\0\0\0" + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D), b"curv" + bytes(8)
    tags = struct.pack(">I", 2) + b"wtpt" + struct.pack(">II", 156, 20) + b"kTRC" + struct.pack(">II", 176, 12)
    header = struct.pack(">I4sI4s4s4s12x4s", 188, b"lcms", 0x02400000, b"mntr", b"GRAY", b"XYZ ", b"acsp")
    header = header.ljust(68, b"\0") + white[8:]
    return header.ljust(128, b"\0") + tags + white + curve


def test_colours_follow_their_profile():
    image = halves()
    for kind in ("PNG", "JPEG", "WEBP"):
        pixels, found = shown(encoded(image, kind, icc_profile=SWAPPED))
        assert found.to_srgb == 1
        assert (pixels[:, 2:30, 1] > 200).all()  # what is called red is green
        assert (pixels[:, 2:30, 0] < 60).all()
        assert (pixels[:, 34:62, 0] > 200).all()


def test_srgb_changes_nothing():
    image = Image.fromarray(archives.pictures(1)[0].transpose(1, 2, 0))
    pixels, found = shown(encoded(image, icc_profile=SRGB))
    assert np.array_equal(pixels, np.asarray(image))
    assert (found.to_srgb, found.unread) == (0, 0)
    assert np.array_equal(shown(encoded(image.convert("L"), icc_profile=SRGB))[0][..., 0], image.convert("L"))


@pytest.mark.parametrize("alpha", [False, True])
def test_grey_levels_follow_their_profile(alpha):
    image = Image.new("LA", (8, 8), (128, 255)) if alpha else Image.new("L", (8, 8), 128)
    pixels, found = shown(encoded(image, icc_profile=linear_grey()))
    assert found.to_srgb == 1
    assert abs(pixels - 188).max() <= 1  # half the light


def red_ink() -> bytes:
    """A profile of CMYK in which every ink but black is the same red: a table of 2^4 colours in L*a*b*, of 8 bits."""
    white, red, black = bytes([255, 128, 128]), bytes([136, 208, 195]), bytes([0, 128, 128])
    table = b"".join(black if inks % 2 else red if inks else white for inks in range(16))
    identity = struct.pack(">9i", *(0x10000 if i % 4 == 0 else 0 for i in range(9)))
    lookup = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + identity + bytes(range(256)) * 4 + table + bytes(range(256)) * 3
    tags = struct.pack(">I4sII", 1, b"A2B0", 144, len(lookup))
    header = struct.pack(">I4sI4s4s4s12x4s", 144 + len(lookup), b"lcms", 0x02400000, b"prtr", b"CMYK", b"Lab ", b"acsp")
    return (header.ljust(68, b"\0") + struct.pack(">iii", 0xF6D6, 0x10000, 0xD32D)).ljust(128, b"\0") + tags + lookup


def test_cmyk_follows_its_profile():
    values = np.zeros((32, 64, 4), np.uint8)
    values[:, 32:, 0] = 255  # cyan
    image = Image.fromarray(values, "CMYK")
    pixels, found = shown(encoded(image, "JPEG", quality=95, icc_profile=red_ink()))
    assert found.to_srgb == 1
    assert abs(pixels[:, 2:30] - WHITE).max() <= 6  # no ink
    assert (pixels[:, 34:62, 0] > 220).all()
    assert (pixels[:, 34:62, 1:] < 80).all()


def test_the_background_is_no_part_of_the_profile():
    values = np.zeros((4, 8, 4), np.uint8)
    values[:, 4:] = (*RED, 255)
    pixels, _ = shown(encoded(Image.fromarray(values), icc_profile=SWAPPED), (250, 0, 0))
    assert (pixels[:, :4] == (250, 0, 0)).all()
    assert (pixels[:, 4:, 1] > 200).all()


@pytest.mark.parametrize("profile", [b"nonsense", SRGB[:200], linear_grey()])
def test_a_profile_that_cannot_be_used_is_left_aside(profile):
    """Damaged, or of grey levels for a colour picture."""
    pixels, found = shown(encoded(halves(), icc_profile=profile))
    assert np.array_equal(pixels, np.asarray(halves()))
    assert (found.to_srgb, found.unread) == (0, 1)


# ---------------------------------------------------------------- damage


@pytest.mark.parametrize(
    "content",
    [
        *(archives.encode(archives.pictures(1)[0], kind) for kind in ("PNG", "JPEG", "WEBP", "BMP")),
        TRANSPARENT["a palette with opacities"],
        TRANSPARENT["RGBA of 16 bits"],
        encoded(
            halves(),
            "JPEG",
            exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0",
            icc_profile=SWAPPED,
        ),
        encoded(halves("CMYK"), "JPEG"),
    ],
    ids=["PNG", "JPEG", "WebP", "BMP", "palette", "16 bits", "metadata", "CMYK"],
)
def test_damaged_bytes_end_in_a_picture_or_in_one_line_with_its_name(content):
    messages = []
    for _ in range(80):
        damaged = bytearray(content)
        for at in RNG.integers(0, len(damaged), RNG.integers(1, 4)):
            damaged[at] = RNG.integers(0, 256)
        damaged = damaged[: RNG.integers(1, len(damaged) + 1)] if RNG.random() < 0.5 else damaged
        try:
            shown(bytes(damaged))
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(message.startswith("a.png: ") and message.isprintable() for message in messages)


@pytest.mark.parametrize(
    "error",
    [
        SyntaxError("broken\nPNG file"),
        struct.error("unpack requires a buffer"),
        OverflowError("too large"),
        zlib.error("invalid stored block"),
        RecursionError("maximum recursion depth exceeded"),
        EOFError(),
        KeyError("x"),
        AssertionError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_a_decoder_raises_names_the_picture(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(DataError, match=r"^a\.png: is not a readable picture \(.+\)") as raised:
        shown(archives.encode(archives.pictures(1)[0], "PNG"))
    assert str(raised.value).isprintable()


def test_a_picture_that_memory_is_too_little_for_is_named(monkeypatch):
    monkeypatch.setattr("PIL.Image.core.new", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(DataError, match=r"^a\.png: takes more memory than there is; make it smaller, or free memory$"):
        shown(archives.encode(archives.pictures(1)[0], "PNG"))


def test_what_pillow_warns_of_is_no_line_of_the_log():
    values = np.full((4, 4, 3), 9)
    content = archives.png(values, 8, 2, acTL=struct.pack(">II", 0, 0))  # an animation of no frames
    with pytest.warns(UserWarning, match="Invalid APNG"):
        Image.open(io.BytesIO(content))
    assert np.array_equal(shown(content)[0], values)


def test_pixels_of_an_unknown_kind_are_refused_by_name(monkeypatch):
    opened = Image.new("F", (4, 4))
    opened.tile, opened.format = [], "PNG"
    monkeypatch.setattr(Image, "open", lambda *_, **__: opened)
    with pytest.raises(DataError, match=r"^a\.png: is not a readable picture \(its pixels are of the kind F"):
        shown(b"")
