"""A suite in one file for a paper's supplement: parameters, lock files, results, environment, metadata, checksums.

Weights, chains and data sets are not in the bundle, but its lock file holds their MD5. This is DVC's lock file, reduced
to the jobs of the suite in order of their names. Equal results give equal bytes, but for the hours of training.
"""

import hashlib
import json
import os
import platform
import re
import stat
import subprocess
import zipfile
import zlib
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path, PurePosixPath

import yaml

from mebm.engine.crate import METADATA, crate
from mebm.engine.graph import Graph
from mebm.engine.hashes import folder_md5, md5
from mebm.engine.lockfile import read_lock
from mebm.errors import DataError
from mebm.files import BoundedLoader, replacing

KEPT = (".json", ".yaml", ".csv", ".md", ".tex", ".html", ".svg", ".png", ".webp")  # of what jobs made
COPIED = ("params.yaml", "dvc.yaml", "dvc.lock", "Snakefile", "requirements.lock", "pyproject.toml", "LICENSE")
ENVIRONMENT, SUMS = "environment.json", "SHA256SUMS"
LARGEST = 2**30  # bytes of a bundle's files together, all of which are read
EPOCH = (1980, 1, 1, 0, 0, 0)  # of every file in the bundle, so that its bytes depend on contents alone


def bundle(root: Path, graph: Graph, suite: str, environment: dict, out: Path) -> int:
    """Write the bundle of a suite, whole or not at all. Returns the number of files in it.

    graph: its jobs, all of which must have run. suite: its name. environment: as below. Raises DataError for an output
    that is not there, for what `verify` would refuse, and where `out` is there and is no bundle.
    """
    if os.path.lexists(out) and not _is_bundle(out):
        raise DataError(f"{out}: already exists and is not a bundle of a suite; move it away, or give another --out")
    contents = {name: (root / name).read_bytes() for name in COPIED if (root / name).is_file()}
    recorded = read_lock(root / "dvc.lock")
    stages = {address: recorded[address] for address in graph.jobs if address in recorded}
    ordered = {"schema": "2.0", "stages": dict(sorted(stages.items()))}
    contents["dvc.lock"] = yaml.safe_dump(ordered, sort_keys=False).encode()
    for job in graph.jobs.values():
        for name in job.outs:
            path = root / name
            if not path.exists():
                raise DataError(f"{name}: no such file, so the suite is not complete; run `snakemake` first")
            files = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
            files = [file for file in files if not file.name.startswith(".")]
            if all(file.suffix in KEPT for file in files):  # a folder as a whole, or its hash could not be checked
                contents |= {file.relative_to(root).as_posix(): file.read_bytes() for file in files}
    contents[ENVIRONMENT] = (json.dumps(environment, indent=2, sort_keys=True) + "\n").encode()
    contents[METADATA] = crate(suite, contents, stages, environment)
    if (size := sum(map(len, contents.values()))) > LARGEST:
        raise DataError(
            f"{out}: would hold {size} bytes, more than the {LARGEST} that `verify` reads; use a smaller suite"
        )
    sums = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(contents.items()))
    try:
        _confirmed(out, contents | {SUMS: sums.encode()})
    except DataError as error:  # what no plan sees: records of an edit that was taken back
        raise DataError(f"{error}; the suite is not up to date, run `snakemake` first") from error
    with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, content in [(SUMS, sums.encode()), *sorted(contents.items())]:
            entry = zipfile.ZipInfo(name, EPOCH)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(entry, content)
    return len(contents) + 1


def environment() -> dict:
    """Python, packages, operating system, and the commit of the code with its day.

    Without git the day is that of the last record in dvc.lock.
    """
    packages = {found.metadata["Name"]: found.version for found in distributions()}
    recorded = Path("dvc.lock").stat().st_mtime
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": dict(sorted(packages.items(), key=lambda item: item[0].lower())),
        "commit": _git("rev-parse", "HEAD"),
        "date": _git("log", "-1", "--format=%cs") or datetime.fromtimestamp(recorded, UTC).date().isoformat(),
        "modified": (_git("status", "--porcelain", "--untracked-files=no") or "").splitlines(),
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, encoding="utf-8", errors="replace", check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def _outputs(stage: dict) -> dict[str, str]:
    """MD5 of a stage's outputs, by path. Raises TypeError or KeyError for something else."""
    found = {entry["path"]: entry["md5"] for entry in stage.get("outs", [])}
    if not all(isinstance(word, str) for pair in found.items() for word in pair):
        raise TypeError("an output's path or md5 is no text")
    return found


def verify(path: Path) -> tuple[int, list[str], list[str]]:
    """Check a bundle against its checksums and its lock file.

    Returns how many files there are, the recorded outputs that their contents confirm, and those that are recorded but
    not in the bundle: weights, chains, data. Raises DataError naming the first file that is missing, unlisted, changed,
    other than the lock file says, or a result that no job recorded.
    """
    return _confirmed(path, _read(path))


def _confirmed(path: Path, contents: dict[str, bytes]) -> tuple[int, list[str], list[str]]:
    """`verify` of the files of a bundle, by name."""
    try:
        lines = contents[SUMS].decode().splitlines()
        listed = {name: digest for digest, name in (line.split("  ", 1) for line in lines)}
        stages = yaml.load(contents["dvc.lock"].decode(), Loader=BoundedLoader)["stages"]
        recorded = {out: hash_ for stage in stages.values() for out, hash_ in _outputs(stage).items()}
        params = next(entry["md5"] for entry in stages["params"]["deps"] if entry["path"] == "params.yaml")
    except (KeyError, ValueError, TypeError, AttributeError, StopIteration, yaml.YAMLError) as error:
        raise DataError(f"{path}: is not a bundle of a suite: {SUMS} or dvc.lock is missing or damaged") from error
    contents = {name: content for name, content in contents.items() if name != SUMS}
    if outside := [name for name in (*listed, *recorded) if not _is_inside(name)]:
        raise DataError(f"{path}: names {outside[0]!r}, which lies outside the project; do not unpack it")
    for name in sorted({*listed, *contents}):
        if name not in contents:
            raise DataError(f"{path}: lacks {name}, which {SUMS} lists; get the bundle again")
        if name not in listed:
            raise DataError(f"{path}: holds {name}, which {SUMS} does not list; get the bundle again")
        if hashlib.sha256(contents[name]).hexdigest() != listed[name]:
            raise DataError(f"{path}: {name} is not what {SUMS} says; get the bundle again")
    if md5(contents.get("params.yaml", b"")) != params:
        raise DataError(f"{path}: params.yaml is not what the results were made from, as dvc.lock says")
    confirmed, outside, others = [], [], {name for name in contents if name.startswith(("results/", "data/"))}
    for out, hash_ in recorded.items():
        inside = {name.removeprefix(f"{out}/"): contents[name] for name in contents if f"{name}/".startswith(f"{out}/")}
        others -= {out, *(f"{out}/{name}" for name in inside)}
        if not inside:
            if PurePosixPath(out).suffix in KEPT:
                raise DataError(f"{path}: lacks {out}, which dvc.lock says was made; get the bundle again")
            outside.append(out)
            continue
        hashes = {name: md5(content) for name, content in inside.items()}
        if hash_ != (hashes[out] if set(hashes) == {out} else folder_md5(hashes)):
            raise DataError(f"{path}: {out} is not what dvc.lock says was made")
        confirmed.append(out)
    if others:
        raise DataError(f"{path}: holds {min(others)}, which no job in dvc.lock made; get the bundle again")
    return len(contents) + 1, confirmed, outside


def _read(path: Path) -> dict[str, bytes]:
    if path.is_dir():
        raise DataError(f"{path}: is a folder, expected the bundle that `python -m mebm archive` wrote")
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the bundle that `python -m mebm archive` wrote")
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names):
                raise DataError(f"{path}: holds a name twice; get the bundle again")
            for entry in archive.infolist():
                if not _is_inside(entry.filename) or entry.orig_filename != entry.filename:
                    raise DataError(
                        f"{path}: names {entry.orig_filename!r}, which lies outside the project; do not unpack it"
                    )
                if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
                    raise DataError(f"{path}: {entry.filename} is not a regular file, such as a link; do not unpack it")
            if (size := sum(entry.file_size for entry in archive.infolist())) > LARGEST:
                raise DataError(f"{path}: would unpack to {size} bytes, more than the {LARGEST} that are read")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: is not a readable bundle ({error}); get it again") from error


def _is_inside(name: str) -> bool:
    """Whether a path stays in the folder that it is unpacked in, on any system."""
    parts = name.split("/")
    return not re.search(r"[\\:\x00-\x1f\x7f]", name) and not any(part in ("", ".", "..") for part in parts)


def _is_bundle(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return SUMS in archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
