"""A short version of benchmarks/survive.py: kills, a truncated state, a full disk, a NaN, two runs at once."""

import os
import random
import signal
import time

import faults
import pytest
from engines import run


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
        faults.finish(folder, engine, expected, tally, engine)
        assert "going back to the one before" in (folder / "output.txt").read_text()
        assert "goes on from iteration" in (folder / "output.txt").read_text()
    if os.getuid() == 0:
        faults.full_disk(reference, expected, tally)
    faults.not_a_number(reference, tally)
    faults.two_at_once(faults.make(tmp_path / "two", 1), {"0", "1"}, tally)
    assert sum(tally.injected.values()) >= 8
    assert tally.lost == []


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
