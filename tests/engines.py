"""Both engines on a copy of the project in a folder of its own."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import smoke
import yaml
from smoke import ROOT

WHO = ("-c", "user.name=x", "-c", "user.email=x@example.org")

TRACKED = ("mebm", "stages", "profiles", ".dvc/config", ".dvc/.gitignore", ".dvcignore", ".gitignore", "dvc.yaml")
TRACKED += ("data/compared/.gitkeep", "pyproject.toml", "LICENSE")


def copy_project(folder: Path, content: dict | None = None) -> Path:
    """The project's pipeline in a new folder, with the smoke parameters or other ones."""
    folder.mkdir()
    for entry in (*TRACKED, "Snakefile"):
        source, target = ROOT / entry, folder / entry
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    write_params(folder, content or smoke.smoke_params())
    run(folder, "git", "init", "--quiet")
    return folder


def write_params(folder: Path, content: dict) -> None:
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


def run(folder: Path, *command: str, status: int | None = 0) -> str:
    """Run a command of this environment in a folder; returns stdout and stderr, checks the exit status if given."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    env = {key: value for key, value in os.environ.items() if not key.startswith(("DVC", "GIT", "PYTHONPATH"))}
    done = subprocess.run(
        command,
        cwd=folder,
        env={**env, "PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert status is None or done.returncode == status, f"{command} ended with {done.returncode}:\n{done.stdout}"
    return done.stdout


def planned(folder: Path, *files: str, options: tuple[str, ...] = ()) -> set[str]:
    """Jobs that `snakemake -n` would run, for all or for some files, by DVC's names, without `all`."""
    text = run(folder, "snakemake", "-n", "--quiet", "host", *options, *(("--", *files) if files else ()))
    blocks = re.findall(r"^rule (\w+):\n((?:    .*\n)+)", text, re.MULTILINE)
    names = set()
    for rule, body in blocks:
        name = re.search(r"wildcards: name=(\w+)", body)
        names.add(f"{rule}@{name[1]}" if name else rule)
    return names - {"all"}


def stale(folder: Path) -> set[str]:
    """Stages that `dvc status` reports, by name."""
    return set(json.loads(run(folder, "dvc", "status", "--json") or "{}"))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that the pipeline made, without the hours that training took."""
    files = [path for part in ("data", "results") for path in (folder / part).rglob("*") if path.is_file()]
    return {
        str(path.relative_to(folder)): hashlib.sha256(without_hours(path)).hexdigest()
        for path in files
        if path.name != ".snakemake_timestamp"
    }


def without_hours(path: Path) -> bytes:
    """A file's content without measured time, and of an inventory without the hash of the file that holds it."""
    content = path.read_bytes()
    if path.suffix == ".html":
        return re.sub(rb'(?<=<span class="hours">)[^<]*', b"", content)
    if path.suffix == ".json":
        content = re.sub(rb'(?<="hours": )[\d.e-]+', b"", content)
    return re.sub(rb'(?<="train/cost.json": ")\w+', b"", content) if path.parent.name == "inventory" else content
