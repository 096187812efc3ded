"""A short version of benchmarks/survive.py: kills, torn and damaged files, full disks, two commands, two users."""

import os
import random
import shutil
import signal
import tempfile
import time
from pathlib import Path

import faults
import pytest
from engines import digests, run


@pytest.mark.slow
@pytest.mark.more
def test_a_training_killed_under_each_engine_ends_in_the_bytes_of_an_uninterrupted_one(finished, tmp_path):
    """Data, Gaussian and features lie there; the training is long enough to be met."""
    tally, one, two = faults.Tally(), *(shutil.copytree(finished, tmp_path / n, symlinks=True) for n in ("one", "two"))
    for folder in (one, two):
        faults.lengthen(folder)
    run(one, *faults.COMMANDS["dvc"])
    for engine in faults.COMMANDS:
        faults.kill_at_random(two, engine, 1, random.Random(engine), tally)
    faults.finish(two, "snakemake", 2, faults.result(one), tally)
    assert (two / "output.txt").read_text().count("goes on from iteration") == 2  # the second and the third start
    assert sum(tally.tried.values()) == 2
    assert tally.lost == []


@pytest.mark.wide
@pytest.mark.slow
def test_killed_training_ends_in_the_bytes_of_an_uninterrupted_run(tmp_path):
    tally = faults.Tally()
    reference = faults.make(tmp_path / "reference", 3)
    run(reference, *faults.COMMANDS["dvc"])
    expected = faults.result(reference)
    assert len(expected) >= 3
    for engine in faults.COMMANDS:
        folder = faults.make(tmp_path / engine, 3)
        faults.kill_at_random(folder, engine, 2, random.Random(engine), tally)
        faults.truncate_newest(folder, tally)
        faults.finish(folder, engine, 2, expected, tally)
        assert "going back to the one before" in (folder / "output.txt").read_text()
        assert "goes on from iteration" in (folder / "output.txt").read_text()
    if os.getuid() == 0:
        faults.full_disk(reference, expected, tally)
    faults.not_a_number(reference, tally)
    faults.two_at_once(faults.make(tmp_path / "two", 1), {"0", "1"}, tally)
    assert sum(tally.tried.values()) >= 8
    assert tally.lost == []


@pytest.fixture(scope="session")
def chain(made_once) -> tuple[Path, dict[str, str]]:
    """A finished suite of quick jobs, and the hashes of what it made."""
    folder = made_once("chain", lambda folder: run(faults.suite(folder), "snakemake"))
    return folder, digests(folder)


@pytest.mark.wide
@pytest.mark.slow
@pytest.mark.parametrize("engine", faults.ALL)
def test_files_torn_cut_and_edited_come_back(chain, tmp_path, engine):
    tally, (made, expected) = faults.Tally(), chain
    folder = Path(shutil.copytree(made, tmp_path / "chain", symlinks=True))
    faults.tear(folder, engine, random.Random(engine), expected, tally, shares=1)
    faults.by_hand(folder, engine, expected, tally)
    faults.kill_chain(folder, engine, 1, random.Random(engine), expected, tally)
    assert tally.lost == []
    assert sum(tally.tried.values()) >= 10


@pytest.mark.more
@pytest.mark.slow
def test_a_second_command_a_dead_engine_and_a_damaged_cache_harm_nothing(chain, tmp_path):
    tally, (made, expected) = faults.Tally(), chain
    folder = Path(shutil.copytree(made, tmp_path / "chain", symlinks=True))
    faults.damage_cache(folder, expected, tally)
    faults.two_commands(folder, expected, tally)
    faults.engine_dies(folder, expected, tally)
    assert tally.lost == []
    assert sum(tally.tried.values()) == 5


@pytest.mark.wide
@pytest.mark.slow
def test_two_users_share_a_cache(chain):
    if why := faults.why_alone():
        pytest.skip(why)
    tally, (made, expected) = faults.Tally(), chain
    with tempfile.TemporaryDirectory(prefix="mebm-users-") as name:  # pytest's own folder is closed to others
        Path(name).chmod(0o755)
        faults.two_users(Path(name) / "users", made, expected, tally)
    assert tally.lost == []


@pytest.mark.wide
@pytest.mark.slow
def test_reading_works_while_training_and_a_second_run_says_what_is_busy(tmp_path):
    folder = faults.make(tmp_path / "busy", 40)
    process = faults.start(folder, "dvc")
    try:
        while not faults.states(folder):
            assert process.poll() is None
            time.sleep(0.1)
        run(folder, "dvc", "metrics", "show")
        assert "train@mjem" in run(folder, "dvc", "status")
        assert f"(PID {process.pid})" in run(folder, "dvc", "repro", "train@mjem", status=255)
        data = {name: f"data/digits/{name}.npz" for name in ("train", "test", "gaussian")}
        command = ["--run", "mjem", *(word for name, path in data.items() for word in (f"--{name}", path))]
        text = run(folder, "python", "-m", "stages.train", *command, "--out", "elsewhere", status=1)
        assert "is training this run; wait for it, or stop it first" in text
        assert process.poll() is None  # and the first is not disturbed
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    finishes = faults.make(tmp_path / "finishes", 3)
    process = faults.start(finishes, "dvc")
    while process.poll() is None:  # reading all the while, also as training takes its lock again and writes
        run(finishes, "dvc", "status", status=None)
    assert process.returncode == 0, (finishes / "output.txt").read_text()
    assert "train@mjem" not in run(finishes, "dvc", "status", "train@mjem")
