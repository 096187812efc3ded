"""Why a job failed, in one small file per job: tables and the page show it where a number is missing.

No stage declares these files. DVC records nothing of a job that fails, and if a note were an input of `tables`, it
would be part of a version that no clone could make again. So a note makes no job stale. It is read only where a result
is missing, and a table that shows it is stale as soon as that result exists.
"""

from contextlib import suppress
from pathlib import Path

from mebm.errors import DataError
from mebm.files import Record, read_json, write_json

FOLDER = Path(".state")  # beside what jobs keep between tries


class Failure(Record):
    """The note: the line with which the job ended."""

    error: str


def note(stage: str, name: str, error: str, folder: Path = FOLDER) -> None:
    """Keep why a job failed. A folder that cannot be written costs only the reason."""
    with suppress(DataError):
        write_json(_path(stage, name, folder), {"error": error})


def forget(stage: str, name: str, folder: Path = FOLDER) -> None:
    """Drop the note of a job that starts again."""
    with suppress(OSError):
        _path(stage, name, folder).unlink()


def reason(stages: tuple[str, ...], name: str, folder: Path = FOLDER) -> str:
    """Why the last of `stages`, in their order, that failed for `name` did so; empty where none did."""
    for stage in reversed(stages):
        path = _path(stage, name, folder)
        with suppress(DataError):  # damaged: as if there were none
            if path.is_file():
                return f"{stage} failed: {read_json(path, Failure)['error']}"
    return ""


def _path(stage: str, name: str, folder: Path) -> Path:
    return folder / f"failed.{stage}.{name}.json"
