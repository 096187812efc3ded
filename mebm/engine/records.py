"""What a job is made from: the parameters that decide its numbers, and what its code means.

`results/params/<stage>.<name>.yaml` holds that for every job of the suite. Both engines depend on those files instead
of params.yaml and source files, so a job is stale exactly when what it computes has changed. Where and how fast it is
computed (the section `compute`, and where files lie) is left out.
"""

import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mebm import sources
from mebm.engine import code
from mebm.engine.graph import RECORDS
from mebm.errors import DataError, ParamsError
from mebm.files import digest, explained, read_text, read_yaml, write_text
from mebm.registry import Registry
from mebm.settings.schema import DECISIVE, EXPORTED, IDLE, SECTIONS, Section, asked
from mebm.settings.stages import STAGES, TABLE_STAGES, Settings
from mebm.settings.suite import Params

ALL = "all.yaml"
CODE, INPUTS = "code", "inputs"  # of a record, beside parameters
# Keys that say where a file lies whose content is checked, and what stands for them where it does not matter.
PLACES: dict[str, dict[str, Any]] = {"dataset": {"downloads": "-", "urls": {}}, "features": {"weights": None}}
PLAIN = re.compile(r"[A-Za-z_][\w/.-]*")
NOT_TEXT = ("null", "true", "false", "yes", "no", "on", "off", "y", "n")
OUTSIDE = (("reference", "file"), ("dataset", "path"))  # inputs that no job makes
ALGORITHMS, NETWORKS = Registry("mebm.method.algorithms"), Registry("mebm.measure.networks")
TABLES = Registry("mebm.show.tables")
BLOCKS = Registry("mebm.show.report.blocks", ".html.j2")


def record(params: Params, stage: str, name: str, root: Path = code.ROOT) -> dict[str, Any]:
    """What the job is made from, as plain data; its code lies in `root`.

    Raises ParamsError for a name that the suite does not have.
    """
    settings = params.resolve(stage, name)
    values = settings.model_dump(exclude={"compute"})
    for section, keys in PLACES.items():
        if section in values:
            values[section] = {key: value for key, value in values[section].items() if key not in keys}
    values |= {section: asked(section, values[section]) for section in IDLE if section in values}
    paths = _beside(params.imported[name].checkpoint) if stage == "import_checkpoint" else _paths_outside(values)
    if outside := _outside(paths, f"{stage}.{name}.yaml"):
        values[INPUTS] = outside
    if stage == "train":
        values["train"] |= settings.compute.decisive(settings.train)
    reached = code.of_stage(stage, root=root)
    return {CODE: code.of_stage(stage, _entries(params, stage, values, reached), root), **values}


def _entries(params: Params, stage: str, values: dict[str, Any], reached: dict[str, str]) -> frozenset[str]:
    """Files of the entries of registries that the job uses, which no import in its code names.

    reached: the code that imports name.
    """
    found = set()
    if "dataset" in values:
        found.add(sources.SOURCES.file(values["dataset"]["source"]))
    if stage == "train":
        found.add(ALGORITHMS.file(values["train"]["algorithm"]))
    if f"{NETWORKS.package.replace('.', '/')}/__init__.py" in reached:
        dataset = values.get("dataset_name", values["name"])
        found.add(NETWORKS.file(params.resolve("features", dataset).features.network))
    if stage in TABLE_STAGES:
        found.add(TABLES.file(values["name"]))
    if stage == "start":
        found.add(TABLES.file("start"))
    if stage == "report":
        found |= {TABLES.file(name) for name in (*values["tables"], "start")}
        found |= {BLOCKS.file(name) for name in BLOCKS.names()}
    return frozenset(found)


def _paths_outside(values: dict[str, Any]) -> list[str]:
    """Inputs of a job that no job makes, as far as its sections name them."""
    found = []
    for section, key in OUTSIDE:
        path = values.get(section, {}).get(key)
        source = values.get(section, {}).get("source")
        if path and not (source and not sources.about(source).from_folder):
            found.append(path)
    return found


def _beside(checkpoint: str) -> list[str]:
    """Files that are read together with exported weights where the suite names these alone (mebm/training/hub.py)."""
    _, *beside = EXPORTED
    return [str(Path(checkpoint).with_name(name)) for name in beside] if checkpoint.endswith(".safetensors") else []


def _outside(paths: list[str], name: str) -> dict[str, str]:
    """Hashes of inputs that no job makes, by path: a file by its content, a folder of pictures by names and sizes.

    Where they are not here, as in a clone that pulls what was made of them, they count as they were.
    """
    found = {}
    for path in paths:
        now = _signature(Path(path))
        if now is None:
            try:
                now = read_yaml(Path(RECORDS) / name)[INPUTS][path]
            except (DataError, KeyError, TypeError):
                continue
        found[path] = now
    return found


@cache
def _signature(path: Path) -> str | None:
    try:
        return _read_signature(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error


def _read_signature(path: Path) -> str | None:
    if path.is_file():
        return digest(path, "md5")
    if not path.is_dir():
        return None
    files = (os.path.join(folder, name) for folder, _, names in os.walk(path) for name in names)
    sizes = [(os.path.relpath(file, path), os.lstat(file).st_size) for file in files]
    return hashlib.md5(repr(sorted(sizes)).encode(), usedforsecurity=False).hexdigest()


def typed(record: dict[str, Any], section: str) -> Section:
    """A section of a job's record as typed values. Raises pydantic's ValidationError for what it cannot hold.

    Keys that records leave out have a value that says nothing.
    """
    values = record.get(section)
    if isinstance(values, dict):
        values = {key: value for key, value in values.items() if key not in DECISIVE} | PLACES.get(section, {})
        values = IDLE.get(section, {}) | values
    return SECTIONS[section].model_validate(values)


def recorded(params: Params, stage: str, name: str) -> Settings:
    """What a job that an engine runs is told: the values of its record, and from `params` what records leave out.

    Raises DataError for a record that is missing or damaged, and ParamsError where parameters or code are no longer
    those that it was made from.
    """
    path, now = Path(RECORDS) / f"{stage}.{name}.yaml", params.resolve(stage, name)
    try:
        settings = _settings(read_yaml(path), now)
    except ValidationError as error:
        raise DataError(f"{path}: {explained(error)}; make it again with `dvc repro params`") from error
    if read_text(path) != text(params, stage, name):
        raise ParamsError(
            f"{params.path}, or code that {stage} runs, was changed after {path} was made from it, so the result "
            "would be recorded under old values; run `snakemake` or `dvc repro` again"
        )
    return settings


def _settings(record: Any, now: Settings) -> Settings:
    """The settings that a record holds, completed by what they are now. Raises pydantic's ValidationError."""
    values = dict(record) if isinstance(record, dict) else {}
    for key in (CODE, INPUTS):
        values.pop(key, None)
    for section in now.sections():
        if section == "compute":
            values[section] = getattr(now, section)
        elif isinstance(found := values.get(section), dict):
            places = getattr(now, section).model_dump(include=set(PLACES.get(section, {})))
            kept = {key: value for key, value in found.items() if key not in DECISIVE}
            values[section] = IDLE.get(section, {}) | kept | places
    return type(now).model_validate(values)


def text(params: Params, stage: str, name: str) -> str:
    """The content of the job's file."""
    return _dump(record(params, stage, name))


def texts(params: Params, root: Path = code.ROOT) -> dict[str, str]:
    """Contents of all files by name, with `all.yaml`: the parameters of all jobs in one file, for the page."""
    records = {f"{stage}.{name}": record(params, stage, name, root) for stage, name in params.jobs()}
    parameters = {job: {key: value for key, value in made.items() if key != CODE} for job, made in records.items()}
    return {**{f"{job}.yaml": _dump(made) for job, made in records.items()}, ALL: _dump(parameters)}


def write(params: Params, folder: str | Path) -> tuple[int, int]:
    """Write the files of all jobs into `folder`, and remove those of jobs that the suite no longer has.

    A file whose content would not change is left alone. Returns how many were written and how many removed.
    """
    folder = Path(folder)
    wanted = {folder / name: content for name, content in texts(params).items()}
    changed = {
        path: content
        for path, content in wanted.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != content
    }
    for path, content in changed.items():
        write_text(path, content)
    gone = [path for path in folder.glob("*.*.yaml") if path not in wanted and _is_record(path)]
    for path in gone:
        path.unlink()
    return len(changed), len(gone)


def _is_record(path: Path) -> bool:
    """Whether a file is what `write` writes: others may lie in the folder and stay."""
    stage, name, *_ = path.name.split(".")
    try:
        found = read_yaml(path)
    except DataError:
        return False
    return stage in STAGES and isinstance(found, dict) and found.get("name") == name


def _dump(record: dict) -> str:
    """YAML of two levels, whose values stand on a line each: a library's dump takes seconds for hundreds of jobs."""
    lines = []
    for key, value in sorted(record.items()):
        if isinstance(value, dict) and value:
            lines += [f"{key}:", *(f"  {_flow(name)}: {_flow(inner)}" for name, inner in sorted(value.items()))]
        else:
            lines.append(f"{key}: {_flow(value)}")
    return "".join(f"{line}\n" for line in lines)


def _flow(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_flow(key)}: {_flow(inner)}" for key, inner in sorted(value.items())) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_TEXT:
        return value
    text = json.dumps(value, ensure_ascii=False)
    # 1e-05 is text for YAML 1.1
    return re.sub(r"^(-?\d+)e", r"\1.0e", text) if isinstance(value, float) else text
