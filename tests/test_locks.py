"""DVC's record of locks, and half of one that a kill left."""

import shutil
from pathlib import Path

import pytest
import smoke
from engines import run

from stages.locks import repair_record

PIPELINE = """
stages:
  copy:
    cmd: cp source.txt one.txt
    deps: [source.txt]
    outs: [one.txt]
"""


@pytest.fixture
def project(tmp_path, monkeypatch) -> None:
    """A job that DVC has run, in the current folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    shutil.copy(smoke.ROOT / ".dvc" / "config", ".dvc/config")
    Path("dvc.yaml").write_text(PIPELINE)
    Path("source.txt").write_text("x")
    run(tmp_path, "git", "init", "--quiet")
    run(tmp_path, "dvc", "repro", "--quiet")


@pytest.mark.parametrize("left", ["", '{"read": {', "[]"])
def test_half_a_record_of_locks_is_mended_and_a_whole_one_kept(project, left):
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
