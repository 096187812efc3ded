"""Training state between two commands: saved whole, found by what the run is made from, removed when it is done.

States lie in `.state/<run>/<hash of record and inputs>/`, outside the pipeline's outputs, which engines delete before a
stage runs. So a training with other parameters, or code of another meaning, never resumes from a wrong state.
"""

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import torch

from mebm.errors import StateError

ROOT = Path(".state")
KEPT = 2


def run_key(record: str, inputs: dict[str, str]) -> str:
    """Hash of everything that decides a run's numbers, and of what its states hold.

    record: the job's parameters and fingerprints of its code; inputs: hashes of files by name, and the fingerprint of
    this module.
    """
    said = json.dumps([record, inputs, torch.__version__], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()[:16]


class StateStore:
    """States of one run in a folder of its own: the last two regular ones, and one of a stop on demand.

    say: called with a line when a damaged state is passed over.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda _: None):
        self.folder, self._say = folder, say
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future | None = None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process; freed by the system however the process ends.

        Raises StateError where another process has it, with its number.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.folder / "lock", "a+", encoding="utf-8") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise StateError(
                    f"{self.folder}: process {file.read().strip() or 'unknown'} is training this run; wait for it, or "
                    "stop it first"
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            for leftover in self.folder.glob(".*.tmp"):
                leftover.unlink()
            yield

    def save_behind(self, record: dict[str, Any], iteration: int) -> None:
        """The same as `save`, in a thread beside training; the record must not change any more.

        One at a time: waits for the one before, and raises the StateError that it ended with.
        """
        self.wait()
        self._writer = self._writer or ThreadPoolExecutor(1, "state")
        self._pending = self._writer.submit(self.save, record, iteration)

    def wait(self) -> None:
        """Until a state on its way is on disk. Raises StateError where that failed."""
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def save(self, record: dict[str, Any], iteration: int, stopped: bool = False) -> None:
        """Write a state, make sure that it is on disk, and only then drop those that it replaces.

        stopped: one made on demand, between regular ones. Raises StateError where it cannot be written; what was
        saved before stays.
        """
        path = self.folder / f"{'stopped' if stopped else 'state'}_{iteration:09d}.pt"
        temporary = self.folder / f".{path.name}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                _save(record, file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
            handle = os.open(self.folder, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            reason = error.strerror or error
            raise StateError(f"{path}: cannot be written ({reason}); free some space and run again") from error
        if not stopped:
            for old in [*self._regular()[:-KEPT], *self._stopped()]:
                old.unlink(missing_ok=True)

    def newest(self) -> dict[str, Any] | None:
        """The latest state that can be read; None if there is none."""
        by_iteration = sorted((*self._regular(), *self._stopped()), key=lambda path: path.stem.split("_")[1])
        return next((record for path in reversed(by_iteration) if (record := self._read(path)) is not None), None)

    def back(self, drop: bool = True) -> dict[str, Any] | None:
        """The oldest regular state that can be read, to go back to after a divergence; later ones are dropped."""
        self.wait()
        for path in self._regular():
            record = self._read(path)
            if record is not None:
                for later in (p for p in (*self._regular(), *self._stopped()) if drop and p != path):
                    later.unlink(missing_ok=True)
                return record
        return None

    def clear(self) -> None:
        """Drop all states and pictures; the lock is left to its holder."""
        self.wait()
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if path.name != "lock":
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _regular(self) -> list[Path]:
        return sorted(self.folder.glob("state_*.pt"))

    def _stopped(self) -> list[Path]:
        return sorted(self.folder.glob("stopped_*.pt"))

    def _read(self, path: Path) -> dict[str, Any] | None:
        if not path.is_file():
            return None
        try:
            record = torch.load(path, map_location="cpu", weights_only=True)
            record["iteration"] + 0
        except Exception as error:  # torch, zipfile and pickle raise many types for a damaged file
            self._say(f"{path}: cannot be read ({' '.join(str(error).split())[:80]}); going back to the one before")
            return None
        return record


def _save(record: dict[str, Any], file: BinaryIO) -> None:
    """torch.save, but an error of the file itself comes out as it was: torch hides a full disk behind its own."""

    class Recording:
        error: OSError | None = None

        def write(self, data) -> int:
            try:
                return file.write(data)
            except OSError as error:
                self.error = error
                raise

        def flush(self) -> None:
            file.flush()

    recording = Recording()
    try:
        torch.save(record, recording)
    except RuntimeError as error:
        raise recording.error or error from error


def discard(run: str, root: Path = ROOT) -> None:
    """Remove what is left of a run's states: its results are safe. States of a run that is in progress stay."""
    for folder in (root / run).iterdir() if (root / run).is_dir() else ():
        try:
            with StateStore(folder).locked():
                if (folder / "finished").is_file():
                    shutil.rmtree(folder)
        except (StateError, OSError):
            continue
    for folder in (root / run, root):
        if folder.is_dir() and not folder.is_symlink() and not any(folder.iterdir()):
            folder.rmdir()
