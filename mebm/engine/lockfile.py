"""Reads DVC's lock file and cache: what every job was made from, what it made, and where the cache holds that."""

import configparser
import json
import os
import re
import time
from contextlib import suppress
from pathlib import Path

import yaml

from mebm.engine.hashes import md5
from mebm.errors import DataError, one_line
from mebm.files import write_text

LOCK = Path("dvc.lock")
STATE, MANY = ".state", 50  # where what a lock file of so many jobs held is kept
MARKS = ("<<<<<<<", ">>>>>>>")  # of a merge
MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
WRITTEN = 2.0  # s without a change, after which nobody is writing a file


def read_lock(path: Path) -> dict[str, dict]:
    """What DVC's lock file says of every job, by address; nothing where there is none. Raises DataError as `read`."""
    return read(path)[1]


def read(path: Path) -> tuple[str, dict[str, dict]]:
    """The text of DVC's lock file, and what it says of every job, by address; both empty where there is none.

    Raises DataError for one that cannot be read, as a merge can leave it. DVC writes it in place, which takes seconds
    for hundreds of jobs, so one that cannot be read is looked at again until it has not changed for a while.
    """
    stamp, since = None, time.monotonic()
    while True:
        try:
            return _read(path)
        except DataError:
            found = path.stat() if path.exists() else None
            now = (found.st_mtime_ns, found.st_size) if found else None
            if now != stamp:
                stamp, since = now, time.monotonic()
            # DVC's first bytes come late, so a file that is still empty is given more time
            if time.monotonic() - since > (WRITTEN if now and now[1] else 2 * WRITTEN):
                raise
        time.sleep(0.05)


def _read(path: Path) -> tuple[str, dict[str, dict]]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return "", {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)}); restore it") from error
    kept, key = _kept_of(path), md5(text.encode())
    with suppress(OSError, ValueError, KeyError, TypeError):  # read before: hundreds of jobs take a second as YAML
        known = json.loads(kept.read_text(encoding="utf-8"))
        if known["md5"] == key:
            return text, known["stages"]
    stages = parse(text, str(path))
    if len(stages) > MANY:
        with suppress(DataError):
            write_text(kept, json.dumps({"md5": key, "stages": stages}))
    return text, stages


def parse(text: str, name: str) -> dict[str, dict]:
    """What a lock file with this content says. name: what messages call it. Raises DataError as `read_lock`."""
    try:
        stages = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        for stage in stages.values():
            for kind in ("deps", "outs"):
                for entry in stage.get(kind, []):
                    if not isinstance(entry["path"], str) or not MD5.fullmatch(entry["md5"]):
                        raise TypeError("a path is no text, or an md5 none")
                    if None in entry.values():  # as a cut leaves it, which DVC refuses
                        raise TypeError("an entry is cut")
            if not isinstance(stage["cmd"], str):
                raise TypeError("a command is no text")
        if not text.endswith("\n"):  # which DVC writes last
            raise TypeError("its end is cut")
        return stages
    except (KeyError, TypeError, AttributeError, RecursionError, yaml.YAMLError) as error:
        if any(mark in text for mark in MARKS):
            raise DataError(
                f"{name}: holds the conflict of a merge; `python -m mebm unite` takes the jobs of both sides"
            ) from error
        raise DataError(f"{name}: cannot be read ({one_line(error)}); `python -m mebm mend` restores it") from error


def dump(stages: dict[str, dict]) -> str:
    """The text of a lock file, in the layout in which DVC writes it."""
    from dvc.utils.serialize import dumps_yaml

    return dumps_yaml({"schema": "2.0", "stages": stages})


def _kept_of(path: Path) -> Path:
    """Where what a lock file held is kept; a copy of one lies in that folder itself."""
    return (path.parent if path.parent.name == STATE else path.parent / STATE) / f"read.{path.name}.json"


def cache_folder(root: Path = Path(".")) -> Path:
    """Where DVC keeps contents, which its configuration can move."""
    home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    files = [Path("/etc/xdg/dvc/config"), home / "dvc" / "config", root / ".dvc" / "config", root / ".dvc/config.local"]
    folder = root / ".dvc" / "cache"
    for file in files:
        config = configparser.RawConfigParser(strict=False, allow_no_value=True)
        try:
            config.read(file, encoding="utf-8")
            found = config.get("cache", "dir", fallback=None)
        except (configparser.Error, OSError, ValueError):
            continue
        folder = file.parent / Path(found.strip("'\"")).expanduser() if found else folder
    return folder


def objects_folder(root: Path = Path(".")) -> Path:
    """The folder of contents in DVC's cache; reads DVC's configuration, so once for many objects."""
    return cache_folder(root) / "files" / "md5"


def object_in(objects: Path, hash_: str) -> Path:
    """Where that folder keeps the content of a hash, whether it is there or not."""
    return objects / hash_[:2] / hash_[2:]


def hashes_in(job: dict, kind: str) -> dict[str, str]:
    """Hashes of the deps or outs that the lock file records of a job, by path."""
    return {entry["path"]: entry["md5"] for entry in job.get(kind, [])}
