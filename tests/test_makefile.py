"""The Makefile: it keeps to its own folder, whatever that is called, and refuses names that its tools cannot take."""

import contextlib
import fcntl
import itertools
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import psutil
import pytest
from _pytest.mark.expression import Expression
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from smoke import ROOT

# Stands for a Python, and in the environment that it makes for Python itself: notes where and how it was called.
PYTHON = """#!/bin/sh
printf '%s|%s|%s\\n' "$0" "$PWD" "$*" >> "$CALLS"
[ "$CACHES" ] && printf '%s\\n' "$XDG_CACHE_HOME" >> "$CACHES"
if [ "$1" = -c ] || [ "$2" = mebm.engine.clean ]; then exec python3 -B "$@"; fi
if [ "$2" = venv ]; then
    mkdir -p "$4/bin"
    for tool in python dvc snakemake; do cp "$0" "$4/bin/$tool"; done
fi
"""
PYENV = "#!/bin/sh\necho 'pyenv: not installed' >&2\nexit 127\n"  # where the name is of another version's
OLD = "#!/bin/sh\ncase $2 in *print*) echo is 3.9.18;; *) exit 1;; esac\n"
NAMES = ("python3.11", "python3.12", "python3.13", "python3")
INSTALL = "-m pip install --quiet --no-deps"
LOCKED = "-m pip install --quiet --no-compile --no-deps --require-hashes --requirement .venv/{}.lock"
COMPILED = "-m compileall -qq -j 0 -x /tests?/ .venv/lib"
PARTS = [LOCKED.format("others"), LOCKED.format("torch")]


@pytest.fixture
def tools(tmp_path) -> Path:
    """A folder with a Python of ours, and with a pip and a python of the system that must never be called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("ours", PYTHON), ("pip", "#!/bin/sh\nexit 9\n"), ("python", "#!/bin/sh\nexit 9\n")):
        put(folder / name, text)
    return folder


def put(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


def calls_of(tools: Path, name: str) -> list[str]:
    """What a program was called with, but for questions."""
    calls = [line.split("|") for line in (tools / "calls").read_text(encoding="utf-8").splitlines()]
    return [words for who, _, words in calls if who == name and not words.startswith("-c")]


def make(folder: Path, tools: Path, *words: str, **more: str) -> subprocess.CompletedProcess:
    """The outcome of `make` with the Python of ours, unless `words` name another or, with PYTHON=, none."""
    # What a make around these tests leaves in the environment would make this one a part of it, which prints folders.
    outside = {key: value for key, value in os.environ.items() if key not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    environment = {
        **outside,
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "CALLS": str(tools / "calls"),
    } | more
    given = any(word.startswith("PYTHON=") for word in words)
    command = ["make", *words, *([] if given else [f"PYTHON={tools}/ours"])]
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
    assert calls_of(tools, f"{tools}/ours") == ["-m venv --clear .venv"]
    *parts, compiled, last = calls_of(tools, ".venv/bin/python")
    assert sorted(parts) == PARTS  # at the same time
    assert compiled == COMPILED
    assert last == f"{INSTALL} --no-build-isolation --editable ."
    others, torch = (locked(folder / ".venv" / f"{part}.lock") for part in ("others", "torch"))
    assert {**others, **torch} == locked(ROOT / "requirements.lock")
    assert not others.keys() & torch.keys()
    inside = {who for who, _, _ in calls if os.path.isabs(who)} - {f"{tools}/ours"}
    assert inside == {f"{folder}/.venv/bin/{tool}" for tool in ("snakemake", "python")}
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["bin", name])
    (tools / "calls").unlink()
    assert make(folder, tools, "install", "PYTHON=").returncode == 0
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
    line = f"but {tools}/ours is not there; install one, or name it: make PYTHON=..."
    assert f"error: Python 3.11 to 3.13 with its module venv is needed, {line}\n" in done.stderr


def test_the_first_python_that_runs_and_fits_is_taken(tmp_path, tools):
    put(tools / "python3.11", PYENV)
    put(tools / "python3.12", OLD)
    put(tools / "python3.13", PYTHON)
    folder = clone(tmp_path / "a")
    done = make(folder, tools, "install", "PYTHON=")
    assert done.returncode == 0, done.stderr
    assert calls_of(tools, f"{tools}/python3.13") == ["-m venv --clear .venv"]
    assert "pyenv" not in done.stdout + done.stderr


def test_without_any_python_that_fits_all_are_named(tmp_path, tools):
    for name in NAMES:
        put(tools / name, PYENV)
    put(tools / "python3.12", OLD)
    done = make(clone(tmp_path / "a"), tools, "PYTHON=")
    assert done.returncode == 2
    assert (
        "needed, but python3.11 is not there, python3.12 is 3.9.18, python3.13 is not there, python3 is not there; "
        "install one, or name it: make PYTHON=...\n"
    ) in done.stderr
    assert done.stderr.count("\n") == 2  # and make's own
    assert not (tmp_path / "a" / ".venv").exists()


def test_an_environment_of_another_python_is_not_taken_for_the_one_that_was_asked_for(tmp_path, tools):
    folder = clone(tmp_path / "a")
    assert make(folder, tools, "install").returncode == 0
    put(folder / ".venv" / "bin" / "python", "#!/bin/sh\necho 3.12\n")
    done = make(folder, tools, "install")
    assert done.returncode == 2
    assert "error: .venv has Python 3.12, and PYTHON=" in done.stderr
    assert "run `make clean-environment` first\n" in done.stderr
    assert make(folder, tools, "install", "PYTHON=").returncode == 0


def test_an_environment_that_was_left_half_made_is_made_again(tmp_path, tools):
    folder = clone(tmp_path / "a")
    (folder / ".venv" / "bin").mkdir(parents=True)
    put(folder / ".venv" / "bin" / "python", "#!/bin/sh\nexit 1\n")
    assert make(folder, tools, "install").returncode == 0
    assert calls_of(tools, f"{tools}/ours") == ["-m venv --clear .venv"]


def test_another_environment_can_stand_beside_the_first(tmp_path, tools):
    folder = clone(tmp_path / "a")
    done = make(folder, tools, "test-numbers", "VENV=.venv-other")
    assert done.returncode == 0, done.stderr
    assert "tests/method" in calls_of(tools, f"{folder}/.venv-other/bin/python")[-1]
    assert not (folder / ".venv").exists()


def test_without_cuda_all_else_comes_from_the_lock(tmp_path, tools):
    folder = clone(tmp_path / "a b")
    done = make(folder, tools, "install", "TORCH_INDEX=file:///where/cpu")
    assert done.returncode == 0, done.stderr
    assert "about 1 GB without CUDA" in done.stdout
    own = re.findall(r"^(torch|torchvision)==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert len(own) == 2
    assert calls_of(tools, ".venv/bin/python") == [
        LOCKED.format("others"),
        "-m pip install --quiet --no-compile --index-url file:///where/cpu "
        + " ".join(f"{name}=={version}" for name, version in own),
        COMPILED,
        f"{INSTALL} --no-build-isolation --editable .",
    ]
    left, whole = (locked(path) for path in (folder / ".venv" / "others.lock", ROOT / "requirements.lock"))
    assert {"torch-fidelity", "numpy", "sympy"} <= set(left)
    assert all(left[name] == whole[name] for name in left)
    gone = set(whole) - set(left)
    assert gone == {name for name in whole if re.fullmatch(r"torch|torchvision|triton|(cuda|nvidia)-.*", name)}


def test_another_pytorch_can_be_asked_for(tmp_path, tools):
    done = make(clone(tmp_path / "a"), tools, "install", "TORCH=2.11")
    assert done.returncode == 0, done.stderr
    assert "-m pip install --quiet --no-compile torch==2.11.* torchvision" in calls_of(tools, ".venv/bin/python")


def test_uv_can_install(tmp_path, tools):
    put(tools / "uv", '#!/bin/sh\nprintf \'%s|%s|%s\\n\' uv "$VIRTUAL_ENV" "$*" >> "$CALLS"\n')
    folder = clone(tmp_path / "a b")
    assert make(folder, tools, "install", "PIP=uv pip").returncode == 0
    calls = [line.split("|") for line in (tools / "calls").read_text().splitlines() if line.startswith("uv|")]
    assert {where for _, where, _ in calls} == {f"{folder}/.venv"}
    *parts, last = [words for _, _, words in calls]
    assert sorted(f"-m {words}" for words in parts) == PARTS
    assert last == "pip install --quiet --no-deps --no-build-isolation --editable ."


@pytest.mark.parametrize(("failing", "other"), [("torch", "sleep 60"), ("others", "true")])
def test_a_part_that_cannot_be_installed_stops_make(tmp_path, tools, failing, other):
    mark = shlex.quote(f"{tools}/other")
    put(
        tools / "uv",
        f"""#!/bin/sh
        case $* in
            *{failing}.lock*) until [ -s {mark} ]; do sleep 0.01; done; exit 3;;
            *.lock*) echo $$ > {mark}; exec {other};;
        esac
        """,
    )
    folder = clone(tmp_path / "a b")
    assert make(folder, tools, "install", "PIP=uv pip").returncode == 2
    assert not (folder / ".venv" / ".installed").exists()
    with contextlib.suppress(psutil.NoSuchProcess):  # and nothing is installed on behind it
        psutil.Process(int((tools / "other").read_text())).wait(10)


def locked(path: Path) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each package in a lock file, by name."""
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    parts = [
        re.fullmatch(r"([a-z0-9-]+)==(\S+)( ; [^-]*[^ ])?((?: +--hash=sha256:[0-9a-f]{64})+)", line) for line in lines
    ]
    assert all(parts), [line for line, part in zip(lines, parts, strict=True) if not part]
    return {part[1]: (part[2], part[4].count("--hash")) for part in parts}


def test_every_package_is_locked_with_hashes_and_in_the_range_that_is_asked_for():
    versions = locked(ROOT / "requirements.lock")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for text in project["dependencies"] + project["optional-dependencies"]["test"]:
        wanted = Requirement(text)
        assert versions[canonicalize_name(wanted.name)][0] in wanted.specifier, text
    assert versions["numpy"][1] > 20  # wheels for each Python and system


@pytest.fixture
def used(tmp_path) -> Path:
    """A folder after some work: 9,000 bytes in each file that a part has."""
    folder = clone(tmp_path / "a b")
    shutil.copytree(ROOT / "mebm", folder / "mebm", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dvc.yaml").touch()
    for name in (*KEPT, *REMOVED["results"], *REMOVED["cache"], *REMOVED["environment"]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes(9000))
    return folder


REMOVED = {
    "results": ("results/a/x.json", "data/set/manifest.json", "data/set/train.npz", "logs/a.log"),
    "cache": (".dvc/cache/files/md5/00/1", ".dvc/tmp/lock", ".snakemake/log/1"),
    "environment": (".venv-other/pyvenv.cfg", "mebm.egg-info/PKG-INFO", ".ruff_cache/1", "tests/__pycache__/a.pyc"),
}
REMOVED["results"] += ("data/compared/other/manifest.json", ".state/a/state.pt", "dvc_plots/index.html")
KEPT = ("results/README.md", "data/README.md", "data/compared/.gitkeep", "data/downloads/cifar.tar.gz")
KEPT += ("data/pictures/1.png", "params.yaml", ".dvc/config", "tests/a.py", "dvc.lock")
KEPT += ("results/a.zip", "results/export/a/README.md")


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file() and "mebm/" not in str(path)}


def test_clean_says_what_there_is_and_removes_nothing(used, tools):
    before = files(used)
    done = make(used, tools, "clean")
    assert done.returncode == 0, done.stderr
    assert files(used) == before
    sizes = dict(re.findall(r"^make clean-(\w+) +(\d+\.\d) MB  \w", done.stdout, re.MULTILINE))
    assert set(sizes) == set(REMOVED)
    assert all(0.1 <= float(size) < 0.2 for size in sizes.values()), sizes  # with folders, in whole blocks
    assert done.stdout.endswith("nothing was removed\n")


@pytest.mark.parametrize("part", REMOVED)
def test_clean_removes_the_part_that_is_named(used, tools, part):
    before = files(used)
    done = make(used, tools, f"clean-{part}")
    assert done.returncode == 0, done.stderr
    assert before - files(used) == set(REMOVED[part])
    assert re.search(r"^removed 0\.1 MB: ", done.stdout, re.MULTILINE), done.stdout
    for name in REMOVED[part]:
        assert any(name.startswith(line.split("  ")[-1]) for line in done.stdout.splitlines()[:-1]), name
    assert make(used, tools, f"clean-{part}").returncode == 0  # there is nothing more


def test_clean_removes_a_link_and_not_what_it_leads_to(used, tools, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept").touch()
    (used / "results" / "link").symlink_to(tmp_path / "elsewhere")
    assert make(used, tools, "clean-results").returncode == 0
    assert not (used / "results" / "link").is_symlink()
    assert (tmp_path / "elsewhere" / "kept").is_file()


def test_a_cache_that_results_are_links_into_stays(used, tools):
    (used / "results" / "b").symlink_to(used / ".dvc" / "cache" / "files" / "md5" / "00" / "1")
    done = make(used, tools, "clean-cache")
    assert done.returncode == 2
    assert "error: results/b: is a link into .dvc/cache, and would be lost; `make clean-results` first\n" in done.stderr
    assert (used / ".dvc" / "cache" / "files" / "md5" / "00" / "1").is_file()


@pytest.mark.parametrize("part", REMOVED)
def test_nothing_is_removed_while_an_engine_is_at_work(used, tools, part):
    before = files(used)
    (used / ".state" / "snakemake.lock").write_text("77")
    with open(used / ".state" / "snakemake.lock") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = make(used, tools, f"clean-{part}")
    assert done.returncode == 2
    assert "error: snakemake (process 77) is at work in this folder; wait for it, or stop it first\n" in done.stderr
    assert files(used) - before == {".state/snakemake.lock"}


def test_every_test_belongs_to_one_command():
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    whole = r"^(test[\w-]*): install\n(?:\t.*\n)*?\t\$\(call in_venv,\$\(call pytest,\d+,([\w ]+)\)\)$"
    rules = {name: Expression.compile(rule) for name, rule in re.findall(whole, text, re.MULTILINE)}
    assert set(rules) == {"test", "test-more", "test-wide"}
    for marks in itertools.product(("", "slow"), ("", "more"), ("", "wide")):
        takes = [name for name, rule in rules.items() if rule.evaluate(lambda mark, marks=marks, **_: mark in marks)]
        assert len(takes) == 1, marks
    called = re.findall(r"^make (\S+)$", (ROOT / ".ci" / "run").read_text(encoding="utf-8"), re.MULTILINE)
    assert called == ["test", "test-more"]  # `make test-wide` is for releases
