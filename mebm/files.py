"""Files that are whole or absent: write under a temporary name, then rename. Hashes of contents."""

import hashlib
import json
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath

import numpy as np

from mebm.errors import DataError, MetricError

SHARED = Path("/tmp")  # and not tempfile.gettempdir(), which is another one for every TMPDIR


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it over `path` if the block succeeds, remove it if not.

    The temporary name keeps the suffix, since image and table writers choose their format by it.
    Raises DataError where the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror or error}); check the folder's permissions and free space"
        ) from error
    finally:
        temporary.unlink(missing_ok=True) if path.parent.is_dir() else None


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, record: dict) -> None:
    """Write a record as JSON with a stable layout. Raises MetricError for NaN or infinity, which JSON lacks."""
    try:
        text = json.dumps(record, indent=2, allow_nan=False)
    except ValueError as error:
        raise MetricError(
            f"{path}: a value is not finite, so nothing was written; write null and a status instead"
        ) from error
    write_text(path, text + "\n")


def read_json(path: str | Path) -> dict:
    """Read a JSON record. Raises DataError where the file is missing or is not JSON."""
    require(path)
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(
            f"{path}: is not valid JSON ({error}); give another file, or make it again with its stage"
        ) from error


def write_npz(path: str | Path, **arrays: np.ndarray) -> None:
    """Write arrays to an uncompressed .npz atomically. Equal arrays give equal bytes."""
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def read_npz(path: str | Path, *names: str, optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read the named arrays of an .npz without executing pickled code.

    Returns a dict with every name of `names`, and those of `optional` that are present. Raises DataError where the
    file is missing, truncated, or lacks an array.
    """
    require(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            missing = [name for name in names if name not in archive.files]
            if missing:
                raise DataError(
                    f"{path}: lacks the array {missing[0]!r} (found: {', '.join(archive.files) or 'none'}); "
                    "give another file, or make it again with its stage"
                )
            return {name: archive[name] for name in (*names, *optional) if name in archive.files}
    except DataError:
        raise
    except Exception as error:  # numpy and zipfile raise many types for a damaged file
        raise DataError(
            f"{path}: is not a readable .npz archive ({unreadable(error)}); give another file, or make it again "
            "with its stage"
        ) from error


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


def unreadable(error: Exception) -> str:
    """Why a file could not be read, in words of ours: libraries guess at other causes, such as their own versions."""
    return getattr(error, "strerror", None) or "it is damaged, or not a file of this format"


def require(path: str | Path) -> Path:
    """Return `path` if it is a file. Raises DataError naming it otherwise."""
    path = Path(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file; run the stage that makes it (`dvc repro` runs all that are needed)")
    return path


def refuse_links(paths: Iterable[str]) -> None:
    """Raises DataError where one of these outputs, relative to the project, lies behind a symbolic link.

    DVC runs a job whose outputs do, and then refuses to record them, so days of training would be lost.
    """
    for folder in {parent for path in paths for parent in PurePath(path).parents}:
        if Path(folder).is_symlink():
            raise DataError(
                f"{folder}: is a link, and DVC records nothing that lies behind one; make it a folder (docs/runs.md, "
                "Disks, says how to use another disk)"
            )


def digest(path: str | Path, algorithm: str) -> str:
    """Hexadecimal digest of a file's contents by a named algorithm of hashlib."""
    with open(require(path), "rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def sha256(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's contents."""
    return digest(path, "sha256")
