"""Repairs of DVC's own files after a kill, a crash or a disk failure.

A torn `dvc.lock` is replaced by a copy that was kept, and records that a cut one has lost are taken from that. Half a
`.dvc/tmp/rwlock` is removed, and objects of DVC's cache that are not what their names say are removed, so that the next
run fetches or makes them again.
"""

import json
import os
import re
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mebm.engine.graph import Graph
from mebm.engine.hashes import Hashes
from mebm.engine.lockfile import (
    LOCK,
    MARKS,
    WRITTEN,
    dump,
    hashes_in,
    object_in,
    objects_folder,
    parse,
    read,
    read_lock,
)
from mebm.errors import DataError, MebmError, StateError
from mebm.files import write_text

KEPT = Path(".state/dvc.lock")
RWLOCK = Path(".dvc/tmp/rwlock")
PATIENCE = 3.0  # s, in which a file that another process is just writing becomes whole


def keep_lock_file(root: Path = Path(".")) -> None:
    """Keep a copy of the lock file if it is whole, and has every record that the copy before has."""
    source, copy = root / LOCK, root / KEPT
    if not source.is_file() or (copy.is_file() and _stamp(copy) >= _stamp(source)):
        return
    with suppress(MebmError, OSError):  # torn, or no room: the copy before stays
        text, stages = read(source)
        if stages and not _lost(root, text, stages):
            write_text(copy, text)


def _stamp(path: Path) -> int:
    return path.stat().st_mtime_ns


def mend_lock_file(root: Path = Path(".")) -> str:
    """Put a whole copy in the place of a torn lock file, and records back that a cut one has lost. Keep a copy then.

    Returns what was done, or nothing. The copy is the kept one, or that of git's last commit. A file that a merge left
    is not touched. Raises DataError where it cannot be written.
    """
    found, name = _mended(root)[0], ""
    if found:
        with _dvcs_lock(root, "lock") as free:  # which DVC holds while it writes
            found, name, text = _mended(root) if free else ("", "", "")
            if text:
                write_text(root / LOCK, text)
            elif found:
                (root / LOCK).unlink()
    keep_lock_file(root)
    cure = f"{name} is back" if name else "there was no copy; it is made again from DVC's cache"
    return found and f"{LOCK} was {found}; {cure}"


def mend_or_stop(root: Path = Path(".")) -> None:
    """In a job of DVC's: the same. Raises StateError where there was something to mend.

    DVC has read the file before, and would make again what it did not find there.
    """
    if said := mend_lock_file(root):
        raise StateError(f"{said}; run the same command again")


def read_mended(root: Path = Path(".")) -> tuple[dict[str, dict], list[str]]:
    """What the lock file will say once `mend` has run, and in words what there is to mend. Nothing is written.

    Raises DataError for a lock file that a merge left.
    """
    torn = [f"{RWLOCK} is torn"] if _stays_torn(root / RWLOCK) else []
    found, name, text = _mended(root)
    if not found:
        return read_lock(root / LOCK), torn
    return parse(text, str(LOCK)) if text else {}, [f"{LOCK} is {found}; planned with {name or 'no record'}", *torn]


def _mended(root: Path) -> tuple[str, str, str]:
    """What is wrong with the lock file, what mends it, and its text then; all empty where nothing is wrong.

    No text means that there is none to put back, and DVC makes the file again. A merge is left to its author.
    """
    path = root / LOCK
    while True:
        try:
            text, stages = read(path)
        except DataError:
            if any(mark in path.read_text(encoding="utf-8", errors="replace") for mark in MARKS):
                return "", "", ""
            return "torn", *_copy(root)
        if not (lost := _lost(root, text, stages)):
            return "", "", ""
        if path.exists() and abs(time.time() - path.stat().st_mtime) > WRITTEN:  # nobody is just writing the rest
            break
        time.sleep(0.1)
    names = f"{', '.join(list(lost)[:3])}{f' and {len(lost) - 3} more' if len(lost) > 3 else ''}"
    found, name = f"without the records of {len(lost)} jobs ({names})", f"what the copy kept in {KEPT} has of them"
    return found, name, dump({**stages, **lost})


def _lost(root: Path, text: str, stages: dict[str, dict]) -> dict[str, dict]:
    """Records that the kept copy has and this lock file has not, as a cut leaves it that still reads as YAML.

    None where the file is absent, or is what git holds: then it is another version, which was checked out.
    """
    kept = _kept(root)
    if not text or set(re.findall(r"^  (\S+):$", kept, re.MULTILINE)) <= set(stages):  # quickly, for hundreds of jobs
        return {}
    with suppress(DataError):
        lost = {address: record for address, record in parse(kept, str(KEPT)).items() if address not in stages}
        return lost if _from_git(root, "") != text else {}
    return {}


def _stays_torn(path: Path) -> bool:
    """Whether half a record lies there, and is not just being written."""
    if not path.is_file() or not _is_torn(path):
        return False
    time.sleep(0.2)
    return path.is_file() and _is_torn(path)


def _copy(root: Path) -> tuple[str, str]:
    """Name and content of a whole copy of the lock file: the kept one, or that of git's last commit, or neither."""
    copies = {f"the copy kept in {KEPT}": _kept(root), "that of the last commit": _from_git(root, "HEAD")}
    for name, content in copies.items():
        with suppress(DataError):
            if content and parse(content, name):
                return name, content
    return "", ""


def _kept(root: Path) -> str:
    with suppress(OSError, ValueError):
        return (root / KEPT).read_text(encoding="utf-8")
    return ""


def _from_git(root: Path, revision: str) -> str:
    """The lock file of a revision; of git's index for an empty one."""
    asked = subprocess.run(["git", "show", f"{revision}:./{LOCK}"], cwd=root, capture_output=True, check=False)
    return asked.stdout.decode(errors="replace") if not asked.returncode else ""


@contextmanager
def _dvcs_lock(root: Path, name: str) -> Iterator[bool]:
    """Hold a lock of DVC's by its file's name in .dvc/tmp, of the kind that it uses here; whether it was had."""
    from dvc.lock import LockError, make_lock
    from dvc.repo import Repo

    folder = root / RWLOCK.parent
    folder.mkdir(parents=True, exist_ok=True)
    with Repo(str(root)) as repo:
        hardlink = bool(repo.config["core"].get("hardlink_lock", False))
    until = time.monotonic() + PATIENCE
    while True:
        try:
            with make_lock(str(folder / name), tmp_dir=str(folder), friendly=False, hardlink_lock=hardlink):
                yield True
                return
        except LockError:
            if time.monotonic() > until:
                yield False
                return
            time.sleep(0.1)


def mend_rwlock(root: Path = Path("."), drop: bool = False) -> str:
    """Remove half a record of DVC's locks. Returns what was done.

    drop: also drop entries whose number a process of this machine has that is no command of DVC. Numbers say nothing
    about other machines of a cluster, so this is for one who knows that none is at work there.
    """
    path = root / RWLOCK
    if not path.is_file() or not (drop or _is_torn(path)):
        return ""
    with _dvcs_lock(root, "rwlock.lock") as free:  # which DVC holds while it writes
        if not free or not path.is_file():
            return ""
        if _is_torn(path):
            path.unlink()
            return f"{path} was damaged; removed it"
        record = json.loads(path.read_text(encoding="utf-8"))
        kept = {
            "write": {p: entry for p, entry in record.get("write", {}).items() if _can_hold(entry["pid"])},
            "read": {p: [e for e in held if _can_hold(e["pid"])] for p, held in record.get("read", {}).items()},
        }
        kept["read"] = {p: held for p, held in kept["read"].items() if held}
        if kept == {"write": record.get("write", {}), "read": record.get("read", {})}:
            return ""
        write_text(path, json.dumps(kept))
        return f"{path}: locks of processes that are no commands of DVC are dropped"


def _is_torn(path: Path) -> bool:
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        entries = [*record.get("write", {}).values(), *(e for held in record.get("read", {}).values() for e in held)]
        return not all(isinstance(entry["pid"], int) for entry in entries)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return True


def _can_hold(process: int) -> bool:
    """Whether a lock of this number can be held: not where another program has it now. DVC sees those that are gone."""
    import psutil

    try:
        words = psutil.Process(process).cmdline()
    except psutil.Error:
        return True
    return any(name in word for word in words for name in ("dvc", "celery", "mebm.engine.job"))


def _made(lock: dict[str, dict], addresses: Iterable[str]) -> dict[str, str]:
    """Hashes of all that jobs made, by path."""
    return {out: hash_ for address in addresses for out, hash_ in hashes_in(lock.get(address, {}), "outs").items()}


def damaged_objects(lock: dict[str, dict], addresses: Iterable[str], root: Path = Path(".")) -> dict[Path, str]:
    """Objects of DVC's cache that jobs' outputs need and that are not what their names say, with an output each."""
    hashes, objects, found = Hashes(), objects_folder(root), {}
    for out, hash_ in _made(lock, addresses).items():
        path = object_in(objects, hash_)
        if not path.is_file():
            continue
        if hashes.of(str(path)) != hash_.removesuffix(".dir"):
            found[path] = out
        elif path.suffix == ".dir":
            for file in json.loads(path.read_text(encoding="utf-8")):
                inside = object_in(objects, file["md5"])
                if inside.is_file() and hashes.of(str(inside)) != file["md5"]:
                    found[inside] = f"{out}/{file['relpath']}"
    hashes.save()
    return found


def mend_objects(addresses: Iterable[str] | None = None, root: Path = Path(".")) -> list[str]:
    """Remove damaged objects of the cache, and have DVC look anew at what was restored from them.

    addresses: jobs whose outputs are looked at; all that the lock file has by default. Returns what was done.
    """
    lock, hashes = read_lock(root / LOCK), Hashes(root)
    addresses = list(lock if addresses is None else addresses)
    said = []
    for path, out in damaged_objects(lock, addresses, root).items():
        path.unlink()
        said.append(f"{path}: was damaged and is removed; `dvc pull {out}` fetches it, or the next run makes it again")
    for out, hash_ in _made(lock, addresses).items():
        path = root / out
        if path.is_file() and not path.is_symlink() and hashes.of(out) != hash_:
            with suppress(PermissionError):  # another user's, by a hard link
                os.utime(path)  # DVC trusts times, and would still take it for what was recorded
    return said


def check_inputs(graph: Graph, address: str, root: Path = Path(".")) -> None:
    """Compare what a job reads with what DVC recorded when it was made. A file is read only if it has changed since.

    DVC takes an object of its cache for what its name says, so damage there would become a number. Raises DataError
    naming the file, and the object if that is damaged.
    """
    lock, hashes = read_lock(root / LOCK), Hashes(root)
    recorded = _made(lock, graph.jobs)
    for path in graph.inputs(*address.split("@")):
        if path not in recorded or (now := hashes.of(path)) == recorded[path] or now is None:
            continue
        damaged = damaged_objects(lock, (job.address for job in graph.jobs.values() if path in job.outs), root)
        cause = f"; the object {object_in(objects_folder(root), recorded[path])} is damaged" if damaged else ""
        fetch = "`dvc pull` if there is a remote, " if damaged else ""
        raise DataError(
            f"{path}: is not what its job made (md5 {now}, recorded {recorded[path]}){cause}; run "
            f"`python -m mebm mend`, {fetch}and the same command again"
        )
    hashes.save()


def mend(root: Path = Path("."), drop: bool = False) -> list[str]:
    """Mend the lock file and DVC's record of locks. Returns what was done. drop: as `mend_rwlock` says."""
    return [line for line in (mend_lock_file(root), mend_rwlock(root, drop)) if line]
