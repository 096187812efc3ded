"""The loop: what one step does, what the options change, and what must not change anything."""

import shutil

import pytest
import smoke
import torch

from mebm.data.images import ImageSet
from mebm.errors import DataError, Diverged
from mebm.method.gaussian import UniformInit
from mebm.settings.schema import Train
from mebm.training.loop import train_model
from mebm.training.records import LOG_COLUMNS

CPU = torch.device("cpu")


def settings(**changes) -> Train:
    return smoke.section("train", **changes)


def train(digits, init, **changes) -> tuple:
    """Train on the digits; returns what train_model does and the rows of the log."""
    trained = train_model(settings(**changes), digits, init, CPU)
    return trained, trained.rows


def weights(trained) -> dict:
    return trained.model.state_dict()


def test_training_lowers_the_energy_of_data_and_moves_the_chains(digits, init):
    trained, rows = train(digits, init, epochs=3)
    assert set(rows[0]) == set(LOG_COLUMNS)
    assert rows[-1]["iteration"] + 1 == trained.iterations == 3 * (len(digits) // 128)
    assert min(row["energy_gap"] for row in rows) < 0
    assert trained.buffer.images.abs().max() <= 1
    assert rows[-1]["x_neg_min"] >= -1


def test_logging_and_pictures_change_no_number(digits, init):
    one, _ = train(digits, init, log_every=3, grid_every=1, pyx_weight=1.0)
    two, _ = train(digits, init, log_every=50, grid_every=7, pyx_weight=1.0)
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))
    assert torch.equal(one.buffer.images, two.buffer.images)


def test_seed_decides(digits, init):
    one, _ = train(digits, init)
    same, _ = train(digits, init)
    other, _ = train(digits, init, seed=1)
    assert torch.equal(one.buffer.images, same.buffer.images)
    assert not torch.equal(one.buffer.images, other.buffer.images)


def test_global_random_state_is_left_alone(digits, init):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(digits, init)
    assert torch.equal(torch.rand(3), expected)


def test_classifier_alone_learns(digits, init):
    changes = {"px_weight": 0.0, "pyx_weight": 1.0, "epochs": 4, "warmup_iters": 0, "lr": 0.05}
    _, rows = train(digits, init, **changes)
    assert rows[-1]["cross_entropy"] < 0.5 * rows[0]["cross_entropy"]
    assert all(row["energy_pos"] == 0 for row in rows)


def test_without_labels(digits, init):
    plain = ImageSet(digits.images, None)
    trained, _ = train(plain, init)
    assert trained.iterations == len(digits) // 64
    with pytest.raises(DataError, match="no labels"):
        train(plain, init, pyx_weight=1.0)


def test_the_class_head_of_an_unconditional_run_stays_as_initialised(digits, init):
    short, _ = train(digits, init)
    long, _ = train(digits, init, epochs=2)
    assert torch.equal(short.model.class_head.weight, long.model.class_head.weight)
    assert not torch.equal(short.model.energy_head.weight, long.model.energy_head.weight)


@pytest.mark.parametrize(
    "changes", [{"head": "logsumexp"}, {"norm": "layer"}, {"norm": "actnorm"}, {"optimiser": "adam"}]
)
def test_variants_train(digits, init, changes):
    rate = {"lr": 0.02 if "norm" in changes else 1e-3} if changes.keys() & {"optimiser", "norm"} else {}
    trained, rows = train(digits, init, pyx_weight=1.0, **changes, **rate)
    assert all(torch.isfinite(value).all() for value in weights(trained).values() if isinstance(value, torch.Tensor))
    assert rows[-1]["cross_entropy"] < rows[0]["cross_entropy"]


def test_uniform_start(digits):
    trained, _ = train(digits, UniformInit(digits.shape), n_steps=0)
    assert trained.buffer.images.std() == pytest.approx(3**-0.5, abs=0.02)


@pytest.mark.more
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("execution", ["compile", "compile+paired"])
def test_compiled_training_agrees_with_eager(digits, init, execution):
    """Same numbers up to the order of sums: losses agree to 1e-5 at first and to 1 % after 11 iterations.

    Chains amplify rounding differences, so agreement cannot stay at rounding level.
    """
    _, eager = train(digits, init, pyx_weight=1.0, log_every=1)
    _, compiled = train(digits, init, pyx_weight=1.0, log_every=1, execution=execution)
    for a, b in zip(eager, compiled, strict=True):
        tolerance = 1e-5 if a["iteration"] < 3 else 1e-2
        assert b["loss"] == pytest.approx(a["loss"], rel=tolerance), a["iteration"]


def test_bf16_training_keeps_float32_weights_and_learns(digits, init):
    trained, rows = train(digits, init, pyx_weight=1.0, precision="bf16", epochs=2)
    assert {p.dtype for p in trained.model.parameters()} == {torch.float32}
    assert trained.buffer.images.dtype == torch.float32
    assert rows[-1]["cross_entropy"] < 0.8 * rows[0]["cross_entropy"]


@pytest.mark.gpu
def test_gpu_step_agrees_with_cpu(digits, init):
    options = settings(pyx_weight=1.0, init="gaussian", noise_std=0.0, reinit_freq=0.0)
    rows = {device: train_model(options, digits, init, torch.device(device)).rows for device in ("cpu", "cuda")}
    assert rows["cuda"][-1]["cross_entropy"] == pytest.approx(rows["cpu"][-1]["cross_entropy"], rel=0.2)


def test_divergence_stops(digits, init):
    with pytest.raises(Diverged, match="diverged in iteration 1: loss"):
        train(digits, init, lr=1e6, warmup_iters=0, norm="none")


def test_looks_at_a_run_change_no_number_of_it(digits, init):
    def trained(**changes):
        looks = []
        options = settings(pyx_weight=1.0, epochs=3, **changes)
        run = train_model(
            options, digits, init, CPU, test=digits, on_look=lambda run: looks.append((run.epoch, len(run.buffer)))
        )
        return run, looks

    often, rarely = trained(grid_every=1), trained(grid_every=2, log_every=1000)
    assert [epoch for epoch, _ in often[1]] == [0, 1, 2, 3]
    assert [epoch for epoch, _ in rarely[1]] == [0, 2, 3]
    assert [row["epoch"] for row in rarely[0].epochs] == [2, 3]
    assert often[0].epochs[1:] == rarely[0].epochs
    assert 0.5 < often[0].epochs[-1]["accuracy"] <= 1
    for key, value in weights(often[0]).items():
        assert torch.equal(value, weights(rarely[0])[key]), key


def test_a_run_without_a_classifier_has_no_accuracy_on_the_way(digits, init):
    trained = train_model(settings(), digits, init, CPU, test=digits)
    assert trained.epochs == [{"epoch": 1, "iteration": trained.iterations}]
