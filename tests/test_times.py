"""File times are made to agree with DVC, and only where DVC says that nothing changed."""

import os
import shutil
from pathlib import Path

import pytest
import smoke
import yaml
from engines import run

from mebm import params
from mebm.errors import DataError
from mebm.pipeline import Graph
from mebm.times import changed_jobs, settle
from stages.locks import repair_record

PIPELINE = """
stages:
  second:
    cmd: cp one.txt two.txt
    deps: [one.txt]
    outs: [two.txt]
  first:
    cmd: cp source.txt one.txt
    deps: [source.txt]
    outs: [one.txt]
"""


@pytest.fixture
def graph(tmp_path, monkeypatch) -> Graph:
    """A chain of two jobs that DVC has run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{Path(os.sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    (tmp_path / ".dvc").mkdir()
    shutil.copy(smoke.ROOT / ".dvc" / "config", ".dvc/config")
    Path("dvc.yaml").write_text(PIPELINE)
    Path("params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
    Path("source.txt").write_text("x")
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "repro", "--quiet")
    return Graph("dvc.yaml", params.load("params.yaml"))


def set_times(**seconds: int) -> None:
    for name, time in seconds.items():
        os.utime(f"{name}.txt", (time, time))


def times() -> list[float]:
    return [os.stat(f"{name}.txt").st_mtime for name in ("source", "one", "two")]


def test_jobs_are_ordered_by_what_they_read(graph):
    assert [job.address for job in graph.ordered()] == ["first", "second"]


def test_outputs_that_dvc_calls_unchanged_get_their_inputs_time(graph):
    set_times(source=3000, one=2000, two=2500)  # as a pull may leave them
    settle(graph)
    assert times() == [3000, 3000, 3000]
    set_times(source=1000, one=2000, two=4000)
    settle(graph)
    assert times() == [1000, 2000, 4000]


def test_what_dvc_calls_changed_keeps_its_time(graph):
    Path("source.txt").write_text("y")
    set_times(source=3000, one=2000, two=2500)
    settle(graph)
    assert times() == [3000, 2000, 2500]
    assert changed_jobs() == ["first"]


def test_without_a_lock_file_or_dvc_times_stay(graph, monkeypatch):
    set_times(source=3000, one=2000, two=1000)
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        settle(graph)
        with pytest.raises(DataError, match="activate the environment"):
            changed_jobs()
    lock = Path("dvc.lock").read_text()
    Path("dvc.lock").write_text("<<<<<<< ours\n")
    settle(graph)
    with pytest.raises(DataError, match=r"`dvc status` fails: .*dvc\.lock"):
        changed_jobs()
    Path("dvc.lock").write_text(lock)
    Path("dvc.lock").unlink()
    settle(graph)
    assert times() == [3000, 2000, 1000]


@pytest.mark.parametrize("left", ["", '{"read": {', "[]"])
def test_half_a_record_of_locks_is_mended_and_a_whole_one_kept(graph, left):
    record = Path(".dvc/tmp/rwlock")
    assert not repair_record()
    record.write_text(left)
    run(Path(), "dvc", "repro", "--force", status=255)  # DVC refuses to read it
    assert repair_record()
    assert not record.exists()
    run(Path(), "dvc", "repro", "--force")
    record.write_text('{"read": {}, "write": {}}')
    assert not repair_record()
    assert record.is_file()
