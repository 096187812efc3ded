"""Data sets as they are published: one module per set, found by the name that `dataset.source` gives.

A module holds ABOUT, an `About` with what is known of the set before its files are here, and `read`, a function from
what the settings ask for (`Wanted`) to `Parts`. Its top imports nothing heavy, because checking params.yaml imports all
of them. What readers share lies in mebm/sources/reading. docs/extending.md adds a set.
"""

from collections.abc import Iterator, Mapping
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

    image_size: pixels of a side; path: a folder of the user's own; downloads: where published files are kept; urls,
    checksums: by file name, instead of the published ones.
    """

    image_size: int
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
    with neither lies inside a package.
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

    @property
    def in_package(self) -> bool:
        """Whether the images lie inside a Python package, so that their number is fixed."""
        return not self.files and not self.from_folder

    @property
    def can_have_test(self) -> bool:
        """Whether the set has a test part of its own, or may turn out to have one."""
        return not self.counts or "test" in self.counts


@dataclass
class Parts:
    """What was read of a set: its chunks, in pieces, so that no set needs to fit in memory.

    test: None where the set has no split of its own; label_names: None where images have no labels; files: SHA-256 by
    name; origin: addresses, for the manifest.
    """

    train: Iterator["Chunk"]
    test: Iterator["Chunk"] | None = None
    label_names: list[str] | None = None
    files: dict[str, str] = field(default_factory=dict)
    origin: list[str] = field(default_factory=list)


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
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; put the pictures there or set dataset.path")
    return folder
