"""Saved state: whole or not there, never of another run, and equal to not having been interrupted."""

import io
import subprocess
import sys

import pytest
import smoke
import torch

from mebm.errors import Diverged, StateError, Stopped
from mebm.method.algorithms import published
from mebm.method.iteration import Algorithm, terms
from mebm.training import state
from mebm.training.loop import step, train_model
from mebm.training.run import Run
from mebm.training.state import StateStore, discard, run_key
from mebm.training.watch import unusual

CPU = torch.device("cpu")


@pytest.fixture
def store(tmp_path) -> StateStore:
    lines: list[str] = []
    made = StateStore(tmp_path / "run" / "key", lines.append)
    made.lines = lines
    return made


def record(iteration: int) -> dict:
    return {"iteration": iteration, "x": torch.full((3,), float(iteration))}


def settings(**changes):
    return smoke.section("train", **{"pyx_weight": 1.0, "epochs": 3, "dropout": 0.1, **changes})


def same(a, b) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_the_last_two_are_kept_and_the_newest_is_found(store):
    assert store.newest() is None
    for iteration in (5, 10, 15):
        store.save(record(iteration), iteration)
    assert sorted(path.name for path in store.folder.iterdir()) == ["state_000000010.pt", "state_000000015.pt"]
    assert store.newest()["x"].tolist() == [15.0] * 3
    store.save(record(17), 17, stopped=True)
    assert store.newest()["iteration"] == 17
    store.save(record(20), 20)
    assert sorted(path.name for path in store.folder.iterdir()) == ["state_000000015.pt", "state_000000020.pt"]


@pytest.mark.parametrize("keep", [0, 100, -10])
def test_a_truncated_newest_falls_back_to_the_one_before_and_says_so(store, keep):
    for iteration in (5, 10):
        store.save(record(iteration), iteration)
    newest = store.folder / "state_000000010.pt"
    newest.write_bytes(newest.read_bytes()[:keep])
    assert store.newest()["iteration"] == 5
    assert "state_000000010.pt: cannot be read" in store.lines[0]


def test_going_back_drops_what_came_later(store):
    for iteration in (5, 10):
        store.save(record(iteration), iteration)
    store.save(record(12), 12, stopped=True)
    assert store.back()["iteration"] == 5
    assert [path.name for path in store.folder.iterdir()] == ["state_000000005.pt"]


def test_a_full_disk_is_one_line_and_loses_nothing(store, monkeypatch):
    store.save(record(5), 5)

    class Full(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, "open", lambda *_: Full(), raising=False)
    with pytest.raises(StateError, match=r"state_000000010\.pt: cannot be written \(No space left on device\)"):
        store.save(record(10), 10)
    assert store.newest()["iteration"] == 5
    assert [path.name for path in store.folder.iterdir()] == ["state_000000005.pt"]


def test_only_one_process_at_a_time(store):
    script = (
        "import sys; from pathlib import Path; from mebm.training.state import StateStore\n"
        "with StateStore(Path(sys.argv[1])).locked(): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(store.folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=smoke.ROOT, **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(StateError, match=f"process {other.pid} is training this run"), store.locked():
            pass
        other.kill()
    with store.locked():  # freed by its death
        pass


def test_the_key_changes_with_the_record_and_inputs():
    keys = {run_key(f"lr: {lr}", {"train": hash_}) for lr in (0.1, 0.2) for hash_ in ("a", "b")}
    assert len(keys) == 4
    assert run_key("lr: 0.1", {"train": "a"}) in keys


def test_states_of_finished_runs_are_discarded_and_others_stay(tmp_path):
    finished, other = (StateStore(tmp_path / "mebm" / key) for key in ("a", "b"))
    for one in (finished, other):
        one.save(record(5), 5)
    (finished.folder / "finished").touch()
    discard("mebm", tmp_path)
    assert not finished.folder.exists()
    assert other.newest()["iteration"] == 5
    (other.folder / "finished").touch()
    discard("mebm", tmp_path)
    assert not tmp_path.exists() or list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("at", [1, 9, 32])
def test_a_stopped_run_goes_on_bit_for_bit(digits, init, store, at):
    seen = {"test": digits, "eval_batch_size": 400}
    whole = train_model(settings(pyx_weight=1.0), digits, init, CPU, **seen)
    asked = iter(range(1000))
    with pytest.raises(Stopped, match=f"stopped before iteration {at} of 33"):
        train_model(
            settings(pyx_weight=1.0),
            digits,
            init,
            CPU,
            **seen,
            states=store,
            save_every=4,
            stop=lambda: next(asked) == at,
        )
    resumed = train_model(settings(pyx_weight=1.0), digits, init, CPU, **seen, states=store, save_every=4)
    assert same(resumed.model.state_dict(), whole.model.state_dict())
    assert torch.equal(resumed.buffer.images, whole.buffer.images)
    assert resumed.rows == whole.rows
    assert resumed.epochs == whole.epochs
    assert [row["epoch"] for row in whole.epochs] == [1, 2, 3]


@pytest.mark.parametrize(
    "changes", [{"optimiser": "adam"}, {"px_weight": 0.0}, {"norm": "actnorm", "lr": 0.01}, {"init": "uniform"}]
)
def test_state_holds_all_that_the_next_iteration_depends_on(digits, init, changes):
    one = Run(settings(**changes), digits, init, CPU)
    for _ in range(13):  # past the end of an epoch of both streams
        step(one)
    two = Run(settings(**changes), digits, init, CPU)
    two.load(one.state())
    for run in (one, two):
        for _ in range(15):
            step(run)
    assert same(one.state(), two.state())


def poison(monkeypatch, at: list[int]):
    """Make the loss NaN in the iterations `at`, each once."""
    left, count = list(at), {"calls": 0}

    def poisoned(*args):
        found = terms(*args)
        if left and count["calls"] == left[0]:
            left.pop(0)
            found["loss"] = found["loss"] * float("nan")
        count["calls"] += 1
        return found

    monkeypatch.setattr(published, "ALGORITHM", Algorithm(terms=poisoned))


def test_a_nan_stops_in_its_iteration(digits, init, monkeypatch):
    poison(monkeypatch, [7])
    seen = []
    with pytest.raises(Diverged, match="diverged in iteration 7: loss nan"):
        train_model(settings(log_every=10), digits, init, CPU, on_divergence=lambda error, _: seen.append(error))
    assert seen[0].iteration == 7
    assert set(seen[0].values) >= {"loss", "energy_pos", "energy_neg", "grad_norm", "weight_grad_norm"}


def test_a_restart_goes_back_with_other_chains_and_a_lower_rate(digits, init, store, monkeypatch):
    poison(monkeypatch, [10])
    changes = {"on_divergence": "restart", "restart_lr_factor": 0.25, "log_every": 1, "warmup_iters": 0}
    trained = train_model(settings(**changes), digits, init, CPU, states=store, save_every=4)
    assert trained.restarts == 1
    rates = {row["iteration"]: row["lr"] for row in trained.rows}
    assert sorted(rates) == list(range(33))  # each iteration once
    assert rates[3] == 0.1  # states of 4 and 8 were kept: back to the older
    assert rates[4] == pytest.approx(0.025)


def test_restarts_are_bounded(digits, init, store, monkeypatch):
    poison(monkeypatch, list(range(100)))
    changes = {"on_divergence": "restart", "max_restarts": 2}
    lines: list[str] = []
    with pytest.raises(Diverged):
        train_model(settings(**changes), digits, init, CPU, states=store, save_every=4, say=lines.append)
    assert [line.split("restart ")[-1] for line in lines] == ["1 of 2 from iteration 0", "2 of 2 from iteration 0"]


def test_a_gradient_that_is_not_finite_is_a_divergence(digits, init):
    run = Run(settings(), digits, init, CPU)
    step(run)
    next(run.model.parameters()).register_hook(lambda grad: grad * float("inf"))
    with pytest.raises(Diverged, match=r"(nan|inf) \(weights\)"):
        step(run)


def test_a_sample_that_is_not_finite_is_a_divergence(digits, init):
    run = Run(settings(px_weight=1.0), digits, init, CPU)
    run.buffer.images.fill_(float("nan"))
    with pytest.raises(Diverged):
        step(run)


def test_unusual_values_are_pointed_at():
    rows = [
        {"iteration": i, "energy_gap": 0.1 + 0.01 * (i % 3), "grad_norm": 1.0, "weight_grad_norm": 2.0}
        for i in range(40)
    ]
    assert unusual(rows) == ""
    assert unusual([*rows[:10], {**rows[0], "energy_gap": 99.0}]) == ""  # too early to say
    rows.append({**rows[0], "iteration": 40, "energy_gap": 5.0})
    assert unusual(rows).startswith("energy_gap is 5 in iteration 40, usually 0.11")


def test_samples_that_saturate_are_pointed_at_once():
    usual = {"iteration": 1, "x_neg_saturated": 0.74, "x_pos_saturated": 0.5}
    assert unusual([usual]) == ""
    much = {**usual, "iteration": 2, "x_neg_saturated": 0.76}
    assert unusual([usual, much]).startswith("76 % of the samples' pixel values are at an end of their range in iter")
    assert unusual([usual, much, {**much, "iteration": 3}]) == ""


def test_the_log_counts_saturated_values(digits, init):
    run = Run(settings(n_steps=0, noise_std=0.0, log_every=1, reinit_freq=0.0), digits, init, CPU)
    run.buffer.images.fill_(0.5)
    run.buffer.images[:, :, :2] = -1  # a quarter of the rows
    step(run)
    assert run.rows[0]["x_neg_saturated"] == pytest.approx(0.25)
    share = float(((digits.images == 0) | (digits.images == 255)).float().mean())
    assert run.rows[0]["x_pos_saturated"] == pytest.approx(share, abs=0.02)
    assert 0 < share < 1


def test_a_state_written_beside_training_is_whole_and_its_failure_is_told(store, monkeypatch):
    store.save_behind(record(5), 5)
    store.save_behind(record(10), 10)  # waits for the first
    store.wait()
    assert store.newest()["iteration"] == 10
    assert [path.name for path in sorted(store.folder.glob("*.pt"))] == ["state_000000005.pt", "state_000000010.pt"]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mebm.training.state._save", full)
    store.save_behind(record(15), 15)
    with pytest.raises(StateError, match="No space left on device"):
        store.save_behind(record(20), 20)
    store.wait()  # told once
    assert store.newest()["iteration"] == 10
