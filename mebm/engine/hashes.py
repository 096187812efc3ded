"""DVC's hashes of files and folders. They are kept with sizes and times, so that an unchanged file is read once."""

import contextlib
import fnmatch
import hashlib
import json
import os
import re
import time
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from mebm.errors import DataError
from mebm.files import digest, write_text

KEPT = Path(".state/hashes.json")
SETTLED = 2.0  # s: a file younger than this could still change within one tick of the file system's clock


def md5(content: bytes) -> str:
    """DVC's hash of a file."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def folder_md5(files: dict[str, str]) -> str:
    """DVC's hash of a folder, from its files' hashes by their paths in it: that of the list of both, by path."""
    ordered = sorted(files.items(), key=lambda item: PurePosixPath(item[0]).parts)
    entries = [{"md5": hash_, "relpath": name} for name, hash_ in ordered]
    return md5(json.dumps(entries, sort_keys=True).encode()) + ".dir"


class Hashes:
    """Hashes of what lies in a project's folder now; those of unchanged files are not computed again.

    ignored: tells of a name whether DVC leaves it out wherever it is.
    """

    def __init__(self, root: Path = Path(".")):
        self._root, self._new = root, False
        try:
            self._known = json.loads((root / KEPT).read_text(encoding="utf-8"))
            self._known = self._known if isinstance(self._known, dict) else {}
        except (OSError, ValueError):  # the first time, or damaged: computed again
            self._known = {}
        patterns = _ignored_names(root)
        self.ignored = re.compile("|".join(map(fnmatch.translate, patterns)) or r"(?!)").match

    def of(self, path: str) -> str | None:
        """Hash of a file or a folder; None where there is neither. Raises DataError for one that cannot be read."""
        try:
            if not (self._root / path).is_dir():
                return self._file(path)
            # outside of the project DVC leaves nothing out
            inside = Path(os.path.abspath(self._root / path)).is_relative_to(os.path.abspath(self._root))
            names = self.files(path) if inside else self._walk(path, lambda name: None)
            hashes = {name: self._file(f"{path}/{name}") or "" for name in names}
            return folder_md5(hashes)
        except OSError as error:
            raise DataError(f"{error.filename or path}: cannot be read ({error.strerror})") from error

    def files(self, folder: str | Path) -> list[str]:
        """Paths in a folder of all files below it, in order, without those that DVC leaves out of a project."""
        return self._walk(folder, self.ignored)

    def _walk(self, folder: str | Path, ignored: Callable[[str], object]) -> list[str]:
        found = []
        for here, inside, names in os.walk(self._root / folder, followlinks=True):
            inside[:] = [name for name in inside if not ignored(name)]
            found += [Path(here, name) for name in names if not ignored(name)]
        return [path.relative_to(self._root / folder).as_posix() for path in sorted(found)]

    def save(self) -> None:
        """Keep what was computed. A folder that cannot be written costs only time."""
        if self._new:
            with contextlib.suppress(DataError):
                write_text(self._root / KEPT, json.dumps(self._known))

    def _file(self, path: str) -> str | None:
        try:
            found = os.stat(self._root / path)
        except FileNotFoundError:
            return None
        stamp = [found.st_size, found.st_mtime_ns, found.st_ino]
        known = self._known.get(path)
        if isinstance(known, list) and len(known) == 4 and known[:3] == stamp:
            return known[3]
        hash_ = digest(self._root / path, "md5")
        if abs(time.time() - found.st_mtime) > SETTLED:
            self._known[path], self._new = [*stamp, hash_], True
        return hash_


def _ignored_names(root: Path) -> set[str]:
    """Patterns of names that .dvcignore leaves out wherever they are; it holds nothing more elaborate."""
    path = root / ".dvcignore"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {line.strip("/ ") for line in lines if line.strip() and not line.startswith(("#", "/"))}
