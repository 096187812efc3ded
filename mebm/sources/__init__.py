"""Data sets as they are published: one module per set, found by the name that `dataset.source` gives.

A module holds ABOUT, an `About` with what is known of the set before its files are here, and `read`, a function from
what the settings ask for (`Wanted`) to `Parts`. Its top imports nothing heavy, because checking params.yaml imports all
of them. What readers share lies in mebm/sources/reading. docs/extending.md adds a set.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from mebm.download import RemoteFile
from mebm.errors import DataError
from mebm.registry import Registry

if TYPE_CHECKING:
    import numpy as np

    Chunk = tuple[np.ndarray, np.ndarray | None]  # images uint8 [n, C, H, W], and labels int64 [n] from 0

SOURCES = Registry("mebm.sources")


class Wanted(Protocol):
    """What a reader is given, as the section `dataset` of params.yaml holds it.

    image_size: pixels of a side; background: red, green and blue behind transparent pictures; path: a folder of the
    user's own; downloads: where published files are kept; urls, checksums: by file name, instead of the published ones.
    """

    image_size: int
    background: Sequence[int]
    path: str | None
    downloads: str
    urls: Mapping[str, str]
    checksums: Mapping[str, str]


@dataclass(frozen=True)
class About:
    """What is known of a data set before it is read.

    recipe, licence: sentences for the manifest. channels: of every image. counts: images by part, `train` and, where
    the set has a split of its own, `test`; empty where only reading tells. sides: pixels of a side in which it comes,
    None: any. classes: 0 without labels, None where only reading tells. title: its name in publications, by which
    tables find published figures. files: what is downloaded. from_folder: whether it is read from `dataset.path`. A set
    with neither lies inside a package. recipe_version: raised when the same files would give other images.
    """

    recipe: str
    licence: str
    channels: int
    counts: Mapping[str, int] = field(default_factory=dict)
    sides: tuple[int, ...] | None = None
    classes: int | None = None
    title: str | None = None
    files: tuple[RemoteFile, ...] = ()
    from_folder: bool = False
    recipe_version: int = 2

    @property
    def in_package(self) -> bool:
        """Whether the images lie inside a Python package, so that their number is fixed."""
        return not self.files and not self.from_folder

    @property
    def can_have_test(self) -> bool:
        """Whether the set has a test part of its own, or may turn out to have one."""
        return not self.counts or "test" in self.counts


@dataclass
class Found:
    """What is found while pictures are listed and decoded, for the manifest: complete once all chunks are drawn.

    width, height: smallest and largest of the pictures as they are shown, in pixels. Files that are not taken for
    pictures: hidden, and in hidden folders; other, by suffix; outside train/ and test/; linked, folders behind links.
    Pictures: transparent somewhere, and so laid on the background; several_frames, of which the first is taken;
    to_srgb, converted by their colour profile; unread, whose orientation or colour profile cannot be read.
    """

    width: tuple[int, int] | None = None
    height: tuple[int, int] | None = None
    hidden: int = 0
    other: Counter[str] = field(default_factory=Counter)
    outside: int = 0
    linked: int = 0
    transparent: int = 0
    several_frames: int = 0
    to_srgb: int = 0
    unread: int = 0

    def note_size(self, width: int, height: int) -> None:
        """That a picture has this size."""
        for name, side in (("width", width), ("height", height)):
            low, high = getattr(self, name) or (side, side)
            setattr(self, name, (min(low, side), max(high, side)))


@dataclass
class Parts:
    """What was read of a set: its chunks, in pieces, so that no set needs to fit in memory.

    test: None where the set has no split of its own; label_names: None where images have no labels; files: SHA-256 by
    name; origin: addresses, for the manifest; found: of a set that comes as pictures; resolution: width and height of
    the published images in pixels, where a set that comes as arrays is prepared in another one.
    """

    train: Iterator["Chunk"]
    test: Iterator["Chunk"] | None = None
    label_names: list[str] | None = None
    files: dict[str, str] = field(default_factory=dict)
    origin: list[str] = field(default_factory=list)
    found: Found | None = None
    resolution: tuple[int, int] | None = None


def names() -> tuple[str, ...]:
    """Names of all sources."""
    return SOURCES.names()


def about(source: str) -> About:
    """What is known of a source before it is read."""
    return SOURCES.module(source).ABOUT


def read(source: str, wanted: Wanted) -> Parts:
    """Open a source. Raises DataError for missing, damaged and other files, also while chunks are drawn."""
    return SOURCES.module(source).read(wanted)


def folder_of(wanted: Wanted) -> Path:
    """The user's folder of pictures. Raises DataError where there is none."""
    folder = Path(wanted.path or "")
    if folder.is_file():
        raise DataError(f"{folder}: is a file, expected a folder; set dataset.path to that of the pictures")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; put the pictures there or set dataset.path")
    return folder
