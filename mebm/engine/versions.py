"""A version of the results, read where it lies: the workspace's files, or git and DVC's cache or remote at a revision.

Nothing is checked out. DVC's lock file says what every job was made from and what it made.
"""

import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

import yaml

from mebm.engine.code import fingerprint_of
from mebm.engine.graph import RECORDS
from mebm.engine.hashes import md5
from mebm.engine.lockfile import object_in, objects_folder
from mebm.errors import DataError
from mebm.files import BoundedLoader

WORKSPACE = "workspace"


@dataclass(frozen=True)
class Recorded:
    """What the lock file records of a job: MD5 of each dependency and output, by path."""

    cmd: str
    deps: dict[str, str]
    outs: dict[str, str]


class Version:
    """Results as of a git revision, tag or DVC experiment, or as they are in the workspace.

    name: as the user gave it; rev: the commit, None for the workspace. Raises DataError where there is no such
    revision, or no results are recorded there.
    """

    def __init__(self, name: str, root: Path = Path(".")):
        self.name, self.root = name, root
        self.rev = None if name == WORKSPACE else _resolve(root, name)
        self.absent: set[str] = set()  # recorded, but neither in the cache nor in the remote
        self.changed: set[str] = set()  # in the workspace, but not as recorded
        self._made_from: dict[str, dict | None] = {}
        self._meanings: dict[str, str | None] = {}
        lock = self.source("dvc.lock")
        if lock is None:
            raise DataError(
                f"{name}: holds no dvc.lock, so no results are recorded there; run the pipeline"
                + ("" if self.rev is None else " and commit dvc.lock with the parameters")
            )
        try:
            stages = yaml.load(lock, Loader=BoundedLoader)["stages"]
            self.jobs = {address: _recorded(stage) for address, stage in stages.items()}
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{name}: dvc.lock cannot be read ({' '.join(str(error).split())})") from error

    @property
    def title(self) -> str:
        """The name with the commit that it stands for."""
        is_commit = self.rev is None or (len(self.name) >= 4 and self.rev.startswith(self.name))  # not a tag "a"
        return self.name if is_commit else f"{self.name} ({self.rev[:7]})"

    def source(self, path: str) -> bytes | None:
        """A file that git tracks, at this version; None where there is none."""
        if self.rev is None:
            file = self.root / path
            return file.read_bytes() if file.is_file() else None
        try:
            return self._repo.scm.get_fs(self.rev).read_bytes("/" + path)
        except (FileNotFoundError, IsADirectoryError):
            return None

    def result(self, path: str) -> bytes | None:
        """A file that a job made: from the workspace, or from DVC's cache or remote.

        None where none is recorded. One that is recorded but in neither place counts as `absent`, and one that the
        workspace holds otherwise than recorded as `changed`.
        """
        if self.rev is None:
            content = self.source(path)
            recorded = next((job.outs[path] for job in self.jobs.values() if path in job.outs), None)
            if recorded and (content is None or md5(content) != recorded):
                self.changed.add(path)
            return content
        if not self.records(path):
            return None
        from dvc.fs import DVCFileSystem

        try:
            if "_files" not in self.__dict__:
                self._files = DVCFileSystem(repo=self._repo_at)
            return self._files.read_bytes("/" + path)
        except Exception:  # a remote raises errors of its own library: no key, no network, no such file
            self.absent.add(path)
            return None

    def results(self, folder: str, pattern: str) -> list[str]:
        """Paths of recorded outputs directly in a folder, by a pattern of their names."""
        return sorted(
            out
            for job in self.jobs.values()
            for out in job.outs
            if PurePosixPath(out).parent == PurePosixPath(folder) and PurePosixPath(out).match(pattern)
        )

    def records(self, path: str) -> bool:
        """Whether the lock file records a path as an output, or the folder that it is in."""
        folders = {str(parent) for parent in PurePosixPath(path).parents}
        return any(out == path or out in folders for job in self.jobs.values() for out in job.outs)

    def made_from(self, address: str) -> dict | None:
        """The record of a job (mebm/engine/records.py) that its results were made from; None where it cannot be had."""
        end = f".{address.partition('@')[2]}.yaml"
        path = next((path for path in self.jobs[address].deps if path.startswith(RECORDS) and path.endswith(end)), "")
        if path not in self._made_from:
            hash_ = self.jobs[address].deps.get(path, "")
            cached = object_in(objects_folder(self.root), hash_)
            content = cached.read_bytes() if path and cached.is_file() else self.result(path) if path else None
            try:
                record = yaml.load(content or b"", Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
            except yaml.YAMLError:
                record = None
            self._made_from[path] = record if isinstance(record, dict) else None
        return self._made_from[path]

    def code(self, address: str) -> dict[str, str]:
        """Fingerprints of the modules that a job's results were made with, by path; empty where they are not known."""
        return (self.made_from(address) or {}).get("code", {})

    def edited(self) -> list[str]:
        """params.yaml and modules, where they are not what the recorded results were made from."""
        found = set()
        for address, job in self.jobs.items():
            recorded = job.deps.get("params.yaml")
            content = self.source("params.yaml") if recorded else None
            found |= {"params.yaml"} if recorded and (content is None or md5(content) != recorded) else set()
            found |= {path for path, made in self.code(address).items() if self._meaning(path) != made}
        return sorted(found)

    def _meaning(self, path: str) -> str | None:
        """Fingerprint of a module as the version holds it."""
        if path not in self._meanings:
            content = self.source(path)
            try:
                self._meanings[path] = None if content is None else fingerprint_of(content, path)
            except DataError:  # no Python any more
                self._meanings[path] = None
        return self._meanings[path]

    @cached_property
    def _repo(self):
        from dvc.repo import Repo

        return Repo(str(self.root))

    @cached_property
    def _repo_at(self):
        from dvc.repo import Repo

        # the remotes of today, of which an old revision need not know
        own = {key: dict(value) for key, value in self._repo.config.items() if key in ("core", "remote", "cache")}
        return Repo(str(self.root), rev=self.rev, uninitialized=True, config=own)


def _recorded(stage: dict) -> Recorded:
    def hashes(kind: str) -> dict[str, str]:
        return {entry["path"]: entry["md5"] for entry in stage.get(kind, []) if "md5" in entry}

    return Recorded(stage["cmd"], hashes("deps"), hashes("outs"))


def _is_shallow(root: Path) -> bool:
    asked = subprocess.run(
        ["git", "rev-parse", "--is-shallow-repository"], cwd=root, capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() == "true"


def _resolve(root: Path, name: str) -> str:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.scm import NoSCM, RevError, resolve_rev
    from scmrepo.exceptions import SCMError

    try:
        with Repo(str(root)) as repo:
            if isinstance(repo.scm, NoSCM):
                raise DataError(
                    f"{name}: this folder is not a git repository, so it has no revisions; clone the project"
                )
            if not name.strip():
                raise RevError("no name")
            return repo.scm.resolve_commit(resolve_rev(repo.scm, name)).hexsha
    except (RevError, SCMError, AttributeError) as error:  # the last: a file or a tree, which git names the same way
        cure = "this clone is shallow, so `git fetch --unshallow` may bring it" if _is_shallow(root) else ""
        known = f"`git log`, `git tag` and `dvc exp list` show them; {WORKSPACE} is the state of the folder"
        raise DataError(f"{name}: is not a git revision, tag or DVC experiment here ({cure or known})") from error
    except DvcException as error:
        raise DataError(f"{root}: {error}; run in the project's folder") from error
