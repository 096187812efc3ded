"""The Makefile: it keeps to its own folder, whatever that is called, and refuses names that its tools cannot take."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from smoke import ROOT

# Stands for python3.11, and in the environment that it makes for Python itself: notes where and how it was called.
PYTHON = """#!/bin/sh
printf '%s|%s|%s\\n' "$0" "$PWD" "$*" >> "$CALLS"
[ "$CACHES" ] && printf '%s\\n' "$XDG_CACHE_HOME" >> "$CACHES"
if [ "$1" = -c ]; then exec python3 "$@"; fi
if [ "$2" = venv ]; then
    mkdir -p "$3/bin"
    for tool in python dvc snakemake; do cp "$0" "$3/bin/$tool"; done
fi
"""


@pytest.fixture
def tools(tmp_path) -> Path:
    """A folder with a Python of ours, and with a pip and a python of the system that must never be called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ours", PYTHON), ("pip", "#!/bin/sh\nexit 9\n"), ("python", "#!/bin/sh\nexit 9\n")):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    return folder


def make(folder: Path, tools: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    # What a make around these tests leaves in the environment would make this one a part of it, which prints folders.
    outside = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment = {
        **outside,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(tools / "calls"),
    } | more
    command = ["make", *words, f"PYTHON={tools}/ours"]
    told = {"capture_output": True, "text": True, "errors": "surrogateescape"}
    return subprocess.run(command, cwd=folder, env=environment, check=False, **told)


def clone(folder: Path) -> Path:
    folder.mkdir()
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize("name", ["a b", "it's", "umläut 日", "#per%cent", "am&p; (x)", "-x [1] *", "back\\slash"])
def test_make_keeps_to_its_folder(tmp_path, tools, name):
    folder = clone(tmp_path / name)
    done = make(folder, tools)
    assert done.returncode == 0, done.stderr
    calls = [line.split("|") for line in (tools / "calls").read_text(encoding="utf-8").splitlines()]
    assert {where for _, where, _ in calls} == {str(folder)}
    assert [words for who, _, words in calls if who == f"{tools}/ours"][1:] == ["-m venv .venv"]
    assert [words for who, _, words in calls if who == ".venv/bin/python"] == [
        "-m pip install --quiet --requirement requirements.lock",
        "-m pip install --quiet --no-deps --no-build-isolation --editable .",
    ]
    inside = {who for who, _, _ in calls if os.path.isabs(who)} - {f"{tools}/ours"}
    assert inside == {f"{folder}/.venv/bin/{tool}" for tool in ("snakemake", "python")}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bin", name])
    (tools / "calls").unlink()
    assert make(folder, tools, "install").returncode == 0
    assert not (tools / "calls").exists()  # set up once


def test_make_in_a_folder_behind_a_link(tmp_path, tools):
    clone(tmp_path / "a b")
    (tmp_path / "link").symlink_to(tmp_path / "a b")
    done = make(tmp_path / "link", tools)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "a b" / ".venv" / ".installed").is_file()


def test_without_a_home_caches_lie_in_the_folder(tmp_path, tools):
    folder = clone(tmp_path / "a b")
    caches = tools / "caches"
    (tmp_path / "home").write_text("a file, which even root cannot make a folder in")
    made = make(folder, tools, HOME=f"{tmp_path}/home", XDG_CACHE_HOME="", CACHES=str(caches))
    assert made.returncode == 0, made.stderr
    assert caches.read_text().splitlines()[-2:] == [f"{folder}/.snakemake/cache"] * 2  # snakemake and the tables
    made = make(folder, tools, HOME=str(tmp_path), XDG_CACHE_HOME="", CACHES=str(caches))
    assert made.returncode == 0, made.stderr
    assert caches.read_text().splitlines()[-2:] == [""] * 2


@pytest.mark.parametrize("sign", ["{", "}", ":", '"', "`", "$"])
def test_a_path_that_the_tools_cannot_take_is_refused_before_anything_is_done(tmp_path, tools, sign):
    folder = clone(tmp_path / f"a {sign}b")
    done = make(folder, tools)
    assert done.returncode == 2
    assert f'error: {folder}: a path must not hold any of {{ }} : " ` $; move' in done.stderr
    assert not (tools / "calls").exists()
    assert not (folder / ".venv").exists()


def test_a_path_that_is_not_utf_8_is_refused(tmp_path, tools):
    folder = clone(tmp_path / "latin-\udce9")
    done = make(folder, tools)
    assert done.returncode == 2
    assert "error: this folder's path is not UTF-8" in done.stderr
    assert not (folder / ".venv").exists()


def test_a_python_that_is_not_there_is_named(tmp_path, tools):
    (tools / "ours").unlink()
    done = make(clone(tmp_path / "a"), tools)
    assert done.returncode == 2
    assert "/ours not found; install Python 3.11 or name it: make PYTHON=..." in done.stderr
