"""The published files of a data set, from the addresses that its settings give."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mebm.download import RemoteFile, obtain
from mebm.files import sha256

if TYPE_CHECKING:
    from mebm.sources import Wanted


def with_mirrors(files: Iterable[RemoteFile], wanted: "Wanted") -> list[RemoteFile]:
    """The files with the addresses and checksums that the settings give instead of the published ones."""
    return [
        replace(file, url=wanted.urls.get(file.name, file.url), checksum=wanted.checksums.get(file.name, file.checksum))
        for file in files
    ]


def obtain_all(files: Iterable[RemoteFile], wanted: "Wanted") -> tuple[list[Path], dict[str, str], list[str]]:
    """Paths of published files in `wanted.downloads`, their SHA-256 by name, and their addresses."""
    remote = with_mirrors(files, wanted)
    paths = [obtain(file, wanted.downloads) for file in remote]
    return paths, {path.name: sha256(path) for path in paths}, [file.url for file in remote]
