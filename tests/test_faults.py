"""A short version of benchmarks/survive.py: kills, a truncated state, a full disk, a NaN, two runs at once."""

import os
import random

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
