"""What manifest.json says of the files that a data set was made from, and of images in it that are equal."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from mebm.data.archives import Manifest
from mebm.errors import one_line
from mebm.files import Record
from mebm.sources import Parts

SUFFIXES = 20  # that are named; further ones are counted together

_Count = Annotated[int, Field(ge=0)]
_Range = Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=2, max_length=2)]


class _Resolution(Record):
    width: _Range
    height: _Range


class _Skipped(Record):
    hidden: _Count
    outside: _Count
    linked_folders: _Count
    other_formats: dict[str, _Count]


class _Pictures(Record):
    background: list[int]
    transparent: _Count
    several_frames: _Count
    to_srgb: _Count
    unread_metadata: _Count
    skipped: _Skipped


class _Duplicates(Record):
    train: _Count
    test: _Count
    across: _Count
    other_label: _Count


class Origins(Manifest):
    """A manifest with what lies behind its images; an earlier version wrote none of it.

    resolution: smallest and largest width and height of the source's own images, in pixels. pictures: how many of the
    decoded pictures were transparent, had several frames, were converted to sRGB, or had metadata that could not be
    read, and how many files were skipped; None for a source that comes as arrays. duplicates: how many images equal
    an earlier one of the training part or of the test part, how many of the test part equal one to train on, and how
    many equal one that has another label.
    """

    resolution: _Resolution | None = None
    pictures: _Pictures | None = None
    duplicates: _Duplicates | None = None


def facts(source: Parts, shape: Sequence[int], background: Sequence[int]) -> dict[str, Any]:
    """`resolution` and `pictures` of a source that has been read; shape: of its prepared images, (C, H, W)."""
    found = source.found
    width, height = source.resolution or (shape[2], shape[1])
    if found is None:
        return {"resolution": {"width": [width, width], "height": [height, height]}, "pictures": None}
    named = dict(found.other.most_common(SUFFIXES))
    more = {"others": rest} if (rest := found.other.total() - sum(named.values())) else {}
    skipped = {"hidden": found.hidden, "outside": found.outside, "linked_folders": found.linked}
    return {
        "resolution": {"width": list(found.width), "height": list(found.height)},
        "pictures": {
            "background": list(background),
            "transparent": found.transparent,
            "several_frames": found.several_frames,
            "to_srgb": found.to_srgb,
            "unread_metadata": found.unread,
            "skipped": {**skipped, "other_formats": {**dict(sorted(named.items())), **more}},
        },
    }


def sentences(manifest: dict[str, Any]) -> list[str]:
    """The same and duplicates in words, for a log and a page; nothing of what did not occur but skipped files."""
    said = []
    pictures, resolution = manifest.get("pictures"), manifest.get("resolution")
    if pictures and resolution:
        said += [_skipped(pictures["skipped"]), _pictures(pictures, resolution)]
    counts = manifest.get("duplicates") or {}
    words = {
        "train": "to train on equal an earlier one",
        "test": "held out equal an earlier one",
        "across": "held out equal one to train on",
        "other_label": "equal one with another label",
    }
    if equal := [f"{counts[key]:,} {text}" for key, text in words.items() if counts.get(key)]:
        said.append(f"equal images: {', '.join(equal)}")
    return [one_line(text) for text in said]


def _skipped(skipped: dict[str, Any]) -> str:
    others = skipped["other_formats"]
    parts = {
        "hidden": skipped["hidden"],
        "outside train/ and test/": skipped["outside"],
        "folders behind links": skipped["linked_folders"],
        f"of other formats ({', '.join(f'{name} {count:,}' for name, count in others.items())})": sum(others.values()),
    }
    return f"skipped: {', '.join(f'{count:,} {text}' for text, count in parts.items() if count) or 0}"


def _pictures(pictures: dict[str, Any], resolution: dict[str, list[int]]) -> str:
    sides = ("-".join(map(str, dict.fromkeys(resolution[side]))) for side in ("width", "height"))
    red, green, blue = pictures["background"]
    words = {
        "transparent": f"transparent, laid on [{red}, {green}, {blue}]",
        "several_frames": "of several frames, of which the first is taken",
        "to_srgb": "converted to sRGB by their colour profile",
        "unread_metadata": "with an orientation or a colour profile that cannot be read and was left aside",
    }
    counted = [f"{pictures[key]:,} {text}" for key, text in words.items() if pictures[key]]
    return "; ".join([f"pictures of {' x '.join(sides)} pixels", *counted])
