"""Folders of this user outside the project. Imports little, because every command needs one before other imports."""

import os
import stat
from pathlib import Path

from mebm.errors import DataError

SHARED = Path("/tmp")  # and not tempfile.gettempdir(), which is another one for every TMPDIR


def own_folder(name: str) -> Path:
    """The folder `name` in this user's cache, made if it is missing: for locks, and for what can be made again.

    In $XDG_CACHE_HOME/mebm or ~/.cache/mebm; in /tmp, whatever TMPDIR is, where those cannot be written. Names there
    are anybody's, so it counts only if it is a folder of this user that nobody else can write. Raises DataError where
    there is none.
    """
    cache = os.environ.get("XDG_CACHE_HOME", "")
    home = Path(cache) if os.path.isabs(cache) else Path(os.path.expanduser("~/.cache"))
    if home.is_absolute() and _is_own(home / "mebm"):
        folder = home / "mebm" / name
    else:
        shared = SHARED / f"mebm-{os.getuid()}"
        if not _is_own(shared, private=True):
            raise DataError(
                f"{home}: cannot be written, and {shared} is not a folder of this user alone; set XDG_CACHE_HOME to a "
                "folder of yours"
            )
        folder = shared / name
    if not _is_own(folder):
        raise DataError(
            f"{folder}: cannot be written, or belongs to another user; set XDG_CACHE_HOME to a folder of yours"
        )
    return folder


def _is_own(folder: Path, private: bool = False) -> bool:
    """Whether it is, perhaps from now on, a folder of this user; private: no link, and nobody else can write there."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat() if private else folder.stat()
    except OSError:
        return False
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or (private and found.st_mode & 0o022):
        return False
    return os.access(folder, os.W_OK | os.X_OK)
