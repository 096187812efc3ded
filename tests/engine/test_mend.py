"""DVC's own files as a kill leaves them, and what makes them whole."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import smoke
from engines import WHO, run, stale

from mebm.commands import mend as mend_command
from mebm.engine import lockfile, mend
from mebm.engine import locks as engine
from mebm.engine.hashes import md5
from mebm.engine.lockfile import read_lock
from mebm.errors import DataError, StateError

PIPELINE = """
stages:
  copy:
    cmd: cp source.txt one.txt
    deps: [source.txt]
    outs: [one.txt]
"""


@pytest.fixture(scope="session")
def made(made_once) -> Path:
    """A folder with a job that DVC has run."""

    def make(folder: Path) -> None:
        (folder / ".dvc").mkdir(parents=True)
        shutil.copy(smoke.ROOT / ".dvc" / "config", folder / ".dvc" / "config")
        (folder / "dvc.yaml").write_text(PIPELINE)
        (folder / "source.txt").write_text("x")
        run(folder, "git", "init", "--quiet")
        run(folder, "dvc", "repro", "--quiet")

    return made_once("mend", make)


@pytest.fixture(scope="session")
def made_two(made, made_once) -> Path:
    """A copy of it with a second job that DVC has run."""

    def make(folder: Path) -> None:
        shutil.copytree(made, folder)
        second = PIPELINE.split("stages:\n")[1].replace("copy:", "next:").replace("one", "two")
        (folder / "dvc.yaml").write_text(PIPELINE + second)
        run(folder, "dvc", "repro", "--quiet")

    return made_once("mend_two", make)


@pytest.fixture
def enter(tmp_path, monkeypatch) -> Callable[[Path], None]:
    """Makes a copy of a folder the current one, where nobody else is just writing a file."""

    def copy_of(folder: Path) -> None:
        monkeypatch.chdir(shutil.copytree(folder, tmp_path / "project"))
        for module in (lockfile, mend):
            monkeypatch.setattr(module, "WRITTEN", 0.01)

    return copy_of


@pytest.fixture
def project(made, enter) -> None:
    """A job that DVC has run, in the current folder."""
    enter(made)


@pytest.mark.parametrize("left", ["", '{"read": {', "[]", '{"read": {"a": [{}]}}'])
def test_half_a_record_of_locks_is_mended_and_a_whole_one_kept(project, left):
    record = Path(".dvc/tmp/rwlock")
    assert mend.mend_rwlock() == ""
    record.write_text(left)
    assert "was damaged" in mend.mend_rwlock()
    assert not record.exists()
    run(Path(), "dvc", "repro", "--force")
    record.write_text('{"read": {}, "write": {}}')
    assert mend.mend_rwlock() == ""
    assert record.is_file()


def test_a_number_that_another_program_has_now_holds_no_lock(project):
    with subprocess.Popen(["sleep", "60"]) as other:
        entry = {"pid": other.pid, "cmd": "dvc repro"}
        path = str(Path("one.txt").resolve())
        Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {path: entry}, "read": {path: [entry]}}))
        run(Path(), "dvc", "repro", "--force", status=255)
        assert mend.mend_rwlock() == ""  # it could be another machine's
        assert "are dropped" in mend.mend_rwlock(drop=True)
        run(Path(), "dvc", "repro", "--force")
        other.kill()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 0.95])
def test_a_torn_lock_file_comes_back(project, share):
    lock = Path("dvc.lock")
    whole = lock.read_bytes()
    mend.keep_lock_file()
    assert mend.mend_lock_file() == ""
    torn = whole[: int(share * len(whole))]
    lock.write_bytes(torn)
    mend.keep_lock_file()  # which keeps no torn one
    mended = mend.mend_lock_file()
    if mended or share < 0.5:
        assert "the copy kept in .state/dvc.lock is back" in mended
        assert lock.read_bytes() == whole
    run(Path(), "dvc", "repro")
    assert read_lock(lock)["copy"]["outs"][0]["md5"] == md5(b"x")
    assert stale(Path()) == set()


def test_without_a_copy_the_cache_makes_it_again(project):
    lock = Path("dvc.lock")
    whole = lock.read_bytes()
    lock.write_text("stages:\n  copy:\n")
    assert "there was no copy" in mend.mend_lock_file()  # neither kept nor committed
    assert "is cached - skipping run" in run(Path(), "dvc", "repro")
    assert lock.read_bytes() == whole


def test_a_cut_that_dvc_refuses_is_torn_too(project):
    lock = Path("dvc.lock")
    text = lock.read_text()
    mend.keep_lock_file()
    for cut in (text[: text.index("cp source")], text[: text.index("size: ") + 6]):
        lock.write_text(cut)
        mend.keep_lock_file()
        assert "is back" in mend.mend_lock_file(), cut
        assert lock.read_text() == text


@pytest.fixture
def cut(made_two, enter) -> tuple[str, str]:
    """The lock file of two jobs, and what a cut leaves of it that still reads as YAML: the first job."""
    enter(made_two)
    mend.keep_lock_file()
    text = Path("dvc.lock").read_text()
    left = text[: text.index("  next:")]
    assert list(read_lock(Path("dvc.lock"))) == ["copy", "next"]
    Path("dvc.lock").write_text(left)
    assert list(read_lock(Path("dvc.lock"))) == ["copy"]
    return text, left


def test_records_that_a_cut_file_has_lost_are_put_back(cut, capsys):
    mend.keep_lock_file()  # which keeps no cut one
    records, (said,) = mend.read_mended()
    has = "what the copy kept in .state/dvc.lock has of them"
    assert list(records) == ["copy", "next"]
    assert said == f"dvc.lock is without the records of 1 jobs (next); planned with {has}"
    mend_command.run(None)
    assert capsys.readouterr().out == f"dvc.lock was without the records of 1 jobs (next); {has} is back\n"
    assert Path("dvc.lock").read_text() == cut[0] == mend.KEPT.read_text()
    assert stale(Path()) == set()
    assert mend.mend() == []


def test_a_cut_at_any_place_loses_no_record(cut):
    """Also one in the middle of a hash, of a size, or before the last line's end."""
    text = cut[0]
    for at in range(len(text) - 40, len(text), 3):
        Path("dvc.lock").write_text(text[:at])
        assert mend.mend()
        assert Path("dvc.lock").read_text() == text, text[at - 20 : at]


def test_a_newer_record_stays_when_lost_ones_are_put_back(cut):
    text, left = cut
    newer = left.replace(md5(b"x"), md5(b"y"))
    Path("dvc.lock").write_text(newer)
    mend.mend()
    assert Path("dvc.lock").read_text() == newer + text.removeprefix(left)


def test_a_job_that_dvc_starts_for_a_lost_record_stops_and_puts_it_back(cut):
    with pytest.raises(StateError, match=r"the records of 1 jobs \(next\); .* is back; run the same command again"):
        mend.mend_or_stop()
    assert Path("dvc.lock").read_text() == cut[0]
    mend.mend_or_stop()


def test_a_version_that_git_holds_is_no_cut(cut):
    run(Path(), "git", "add", "dvc.lock")
    assert mend.mend() == []
    assert Path("dvc.lock").read_text() == cut[1] == mend.KEPT.read_text()


def test_without_a_kept_copy_that_of_the_last_commit_comes_back(project):
    lock = Path("dvc.lock")
    text = lock.read_text()
    run(Path(), "git", "add", "dvc.lock")
    run(Path(), "git", *WHO, "commit", "--quiet", "--message", "results")
    lock.write_text("")
    assert "that of the last commit is back" in mend.mend_lock_file()
    assert lock.read_text() == text


def test_a_merge_is_left_to_its_author(project):
    Path("dvc.lock").write_text("<<<<<<< ours\n=======\n>>>>>>> theirs\n")
    assert mend.mend_lock_file() == ""
    assert Path("dvc.lock").read_text().startswith("<<<<<<<")


def test_a_damaged_object_is_removed_and_the_file_made_again(project):
    hash_ = md5(b"x")
    stored = Path(".dvc/cache/files/md5") / hash_[:2] / hash_[2:]
    stored.chmod(0o644)
    stored.write_bytes(b"y")
    stored.chmod(0o444)
    Path("one.txt").unlink()
    run(Path(), "dvc", "checkout")
    assert Path("one.txt").read_text() == "y"  # which DVC takes for what was recorded
    graph = SimpleNamespace(
        jobs={"copy": SimpleNamespace(address="copy", outs=("one.txt",))}, inputs=lambda *_: ["one.txt"]
    )
    with pytest.raises(DataError, match=rf"one\.txt: is not what its job made .* {stored} is damaged"):
        mend.check_inputs(graph, "next")
    assert any(str(stored) in line and "was damaged" in line for line in mend.mend_objects())
    run(Path(), "dvc", "repro")
    assert Path("one.txt").read_text() == "x" == stored.read_text()
    assert mend.mend_objects() == []
    mend.check_inputs(graph, "next")


def test_two_snakemakes_exclude_each_other(project):
    script = "from mebm.engine import locks; locks.take(); print('has it', flush=True); input()"
    command = [sys.executable, "-c", script]
    environment = {**os.environ, "PYTHONPATH": str(smoke.ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as other:
        assert other.stdout.readline() == "has it\n"
        for refuse in (engine.take, engine.refuse_beside_snakemake):
            with pytest.raises(StateError, match=rf"snakemake \(process {other.pid}\) is at work in this folder"):
                refuse()
        other.kill()
    engine.refuse_beside_snakemake()  # freed by its death


def test_a_job_that_outlived_its_engine_is_named(project):
    engine.refuse_beside_others()
    script = "import sys; sys.argv = []; print('up', flush=True); input()"
    Path("stages").mkdir()
    Path("stages/__init__.py").touch()
    Path("stages/train.py").write_text(script)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    environment = {**os.environ, "DVC_STAGE": "train@a"}  # and not one that somebody runs by hand
    with subprocess.Popen([sys.executable, "-m", "stages.train", "--run", "a"], env=environment, **pipes) as other:
        assert other.stdout.readline() == "up\n"
        with pytest.raises(StateError, match=rf"stages\.train --run a \(process {other.pid}\) is at work"):
            engine.refuse_beside_others()
        other.kill()
