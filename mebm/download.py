"""Published files on this machine: downloaded once and whole, or placed by hand, and verified every time."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from mebm.errors import DataError
from mebm.files import digest

TIMEOUT = 60  # seconds without a byte
LARGEST = 2**33  # bytes of a download; the largest published file has 3.4 GB


@dataclass(frozen=True)
class RemoteFile:
    """A published file. checksum: "md5:..." or "sha256:..." (a beginning of the digest is enough), or None if unknown.

    Without a checksum the file is not downloaded, only accepted where it was placed by hand.
    """

    name: str
    url: str
    checksum: str | None = None

    def at(self, folder: str | Path) -> Path:
        """Where the file is looked for and kept."""
        return Path(folder) / self.name


def obtain(file: RemoteFile, folder: str | Path) -> Path:
    """The file's path in `folder`, verified; downloaded there if it is absent.

    A download arrives under a temporary name and takes its own only after its checksum was right. A file placed by
    hand is never deleted. Raises DataError with the URL and the path for placing the file by hand.
    """
    path = file.at(folder)
    if path.is_file():
        _verify(path, file)
        return path
    by_hand = f"place the file of {file.url} at {path} by hand" + (f" ({file.checksum})" if file.checksum else "")
    if file.checksum is None:
        raise DataError(f"{path}: no such file, and it has no published checksum to download it by; {by_hand}")

    import pooch

    pooch.get_logger().setLevel(logging.ERROR)
    fetch = pooch.HTTPDownloader(timeout=TIMEOUT, progressbar=False, headers={"Accept-Encoding": "identity"})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pooch.retrieve(file.url, None, fname=path.name, path=path.parent, downloader=_Checked(fetch, file))
    except DataError as error:
        raise DataError(f"{file.url}: {error}, so it was not kept; try again later, or {by_hand}") from error
    except OSError as error:  # requests' errors are OSErrors, too
        reason = " ".join(str(error).split())[:160]
        raise DataError(f"{file.url}: could not be downloaded ({reason}); {by_hand}") from error
    return path


class _Checked:
    """A pooch downloader that verifies what arrived while it still has its temporary name."""

    def __init__(self, fetch, file: RemoteFile):
        self._fetch, self._file = fetch, file

    def __call__(self, url: str, output_file: str, pooch, check_only: bool = False):
        with open(output_file, "wb") as file:
            self._fetch(url, _Bounded(file), pooch, check_only=check_only)
        _verify(Path(output_file), self._file)


class _Bounded:
    """A file for a download, which need not have an end."""

    def __init__(self, file: BinaryIO):
        self._file, self._written = file, 0
        self.flush = file.flush

    def write(self, content: bytes) -> None:
        self._written += len(content)
        if self._written > LARGEST:
            raise DataError(f"has sent more than the {LARGEST} bytes that are taken")
        self._file.write(content)


def _verify(path: Path, file: RemoteFile) -> None:
    if file.checksum is None:
        return
    algorithm, expected = file.checksum.split(":")
    found = digest(path, algorithm)
    if not found.startswith(expected):
        with open(path, "rb") as opened:
            head = opened.read(256).lstrip()
        kind = "; it is a web page, not the file" if head[:1] == b"<" else ""
        named = f"{path}: " if path.name == file.name else ""
        raise DataError(
            f"{named}has {algorithm} {found[: max(len(expected), 8)]}, expected {expected}{kind}"
            + (f" (the right one is {file.url}); delete it or put the right one there" if named else "")
        )
