"""Compressed archives, read member by member within a bound of size and never unpacked to disk."""

import gzip
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import BinaryIO

from mebm.errors import DataError
from mebm.files import UNPACKED, check_unpacked


class _Unpacked(gzip.GzipFile):
    """A gzip file that ends in an error where it grows beyond the bound."""

    def read(self, size: int = -1) -> bytes:
        left = UNPACKED - self.tell() + 1
        content = super().read(left if size < 0 else min(size, left))
        self._bound(self.tell())
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self._bound(offset)
        return super().seek(offset, whence)

    def _bound(self, at: int) -> None:
        if at > UNPACKED:
            raise DataError(f"{self.name}: unpacks to more than the {UNPACKED} bytes that are read; get it again")


def tar_member(path: Path, name: str) -> bytes:
    """A file inside a tar.gz archive. Raises DataError where it is not there, and for what is damaged or too large."""
    try:
        with _Unpacked(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
            info = archive.getmember(name)
            if not info.isreg():
                raise DataError(f"{path}: {name} is not a file; it is another archive")
            return archive.extractfile(info).read()
    except KeyError as error:
        raise DataError(f"{path}: lacks {name}; it is another archive") from error
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: is not a readable tar.gz archive ({error})") from error


def open_zip(path: Path) -> zipfile.ZipFile:
    """A zip archive, opened. Raises DataError for a file that is none."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: is not a readable zip archive ({error}); delete it and get it again") from error


def zip_member(archive: zipfile.ZipFile, name: str, path: Path) -> BinaryIO:
    """A file in the zip archive of `path`, opened. Raises KeyError where it is not there, DataError if too large."""
    check_unpacked([archive.getinfo(name)], f"{path}: {name}")
    try:
        return archive.open(name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged, or with a password
        raise DataError(f"{path}: {name} cannot be read ({error}); get it again") from error
