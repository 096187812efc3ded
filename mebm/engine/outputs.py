"""DVC's lock of a stage's outputs, held only while they are written.

DVC locks the outputs of a stage while its command runs, so `dvc status` and similar commands would refuse to work
during days of training. Training writes its outputs only at the end. It gives up the lock until then, and takes it back
before it writes.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

FOLDER = Path(".dvc/tmp")


@contextmanager
def outputs_unlocked(out: Path, patience: float = 60.0) -> Iterator[None]:
    """Inside, other DVC commands may read what lies in `out`, which the caller must not write.

    Uses DVC's own record and the guard around it. Does nothing where no `dvc` above this process holds such a lock.
    patience: seconds to wait at the end for readers to leave.
    """
    held = _give_up(out)
    try:
        yield
    finally:
        if held:
            _take_again(held, patience)


def _give_up(out: Path) -> dict[str, dict]:
    """Remove the write locks on paths in `out` that ancestors of this process hold; returns them."""
    if not (FOLDER / "rwlock").is_file():
        return {}
    import psutil

    ancestors, inside = {process.pid for process in psutil.Process().parents()}, f"{out.resolve()}/"
    with _record() as record:
        held = {
            path: dict(info)
            for path, info in record["write"].items()
            if info["pid"] in ancestors and path.startswith(inside)
        }
        for path in held:
            del record["write"][path]
    return held


def _take_again(held: dict[str, dict], patience: float) -> None:
    """Put the locks back, once no other process reads or writes there."""
    import psutil

    until, own = time.monotonic() + patience, {info["pid"] for info in held.values()}
    while True:
        with _record() as record:
            entries = [e for path in held for e in (record["write"].get(path), *record["read"].get(path, [])) if e]
            others = [entry for entry in entries if entry["pid"] not in own]
            if not any(psutil.pid_exists(info["pid"]) for info in others) or time.monotonic() > until:
                record["write"].update(held)
                return
        time.sleep(0.1)


@contextmanager
def _record() -> Iterator[dict]:
    """DVC's record of locks, for editing; tried again while another command edits it."""
    from dvc.fs import localfs
    from dvc.lock import LockError
    from dvc.rwlock import _edit_rwlock

    with ExitStack() as guard:
        for attempt in range(100):
            try:
                record = guard.enter_context(_edit_rwlock(str(FOLDER.resolve()), localfs, False))
                break
            except LockError:
                if attempt == 99:
                    raise
                time.sleep(0.1)
        yield record
