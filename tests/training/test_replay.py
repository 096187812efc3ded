"""Ten iterations of training, value by value, beside an independent rewriting of the published ones (tests/replay.py).

Both run in float64, where what differs is a fault and no rounding: SGLD and the weights amplify rounding too. Settings
are chosen so that every part of an iteration does something, which the test makes sure of.
"""

import pytest
import smoke
import torch
from replay import Dice, Initial, Replay
from torch import Tensor

from mebm.data.images import ImageSet
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.seeds import generator_for
from mebm.training.loop import step
from mebm.training.run import Run

RIDGE = 1e-3
STEEPER = 15  # energies and logits, so that the bound on gradients and the range of pixels are reached
SETTINGS = {
    **{"width": 1, "px_weight": 0.8, "l2_coeff": 0.3, "augment_pad": 2, "augment_flip": True},
    **{"n_steps": 3, "step_size": 0.5, "noise_std": 0.1, "grad_bound": 0.3, "buffer_size": 12, "reinit_freq": 0.3},
    **{"batch_size": 7, "label_batch_size": 10, "epochs": 4, "log_every": 1},
    **{"lr": 0.002, "momentum": 0.8, "weight_decay": 0.1},
    **{"warmup_iters": 6, "decay_epochs": [1, 2], "decay_factor": 0.3},  # the first decay falls into the warm-up
}
CASES = {
    "M-EBM": {},
    "M-JEM": {"pyx_weight": 1.3},
    "log-sum-exp": {"pyx_weight": 1.0, "head": "logsumexp", "log_every": 2},
    "four stages, no labels": {
        **{"batch_size": 2, "label_batch_size": 2, "buffer_size": 1},
        **{"n_steps": 1, "noise_std": 0.3, "grad_bound": 0.03, "l2_coeff": 0.0},
    },
}
BLOCK = {8: 1, 64: 2}  # by the side of images
MEANS = ("energy_pos", "energy_neg", "energy_gap", "energy_l2", "cross_entropy", "loss")
MEANS += ("grad_norm", "weight_grad_norm")


class Wide(GaussianInit):
    """The Gaussian with draws in float64, of which the buffer takes its type."""

    def to(self, device, dtype=torch.float64):
        return super().to(device, dtype)


def images_of(case: str) -> tuple[ImageSet, int]:
    """Random images, and the number of iterations that go into the third of their epochs (of large ones the second)."""
    random = torch.Generator().manual_seed(0)
    if "four stages" in case:
        return ImageSet(torch.randint(0, 256, (3, 1, 64, 64), generator=random).to(torch.uint8), None), 2
    images = torch.randint(0, 256, (45, 3, 8, 8), generator=random).to(torch.uint8)
    return ImageSet(images, torch.randint(0, 5, (45,), generator=random), 5), 10


def started(train, data: ImageSet) -> Run:
    """The product's run in float64; pixels of data become float64 on their way into the network."""
    init = Wide.from_moments(*fit_gaussian(data.images), data.shape, RIDGE)
    run = Run(train, data, init, torch.device("cpu"))
    run.model.double().backbone.register_forward_pre_hook(lambda _, args: (args[0].double(),))
    with torch.no_grad():
        run.model.energy_head.weight *= STEEPER
        run.model.class_head.weight *= STEEPER
    return run


def assert_same(ours: Tensor, theirs: Tensor, what: str) -> None:
    """To seven digits of the largest element; what is right agrees to eight or more."""
    assert ours.dtype == theirs.dtype, what
    limit = 1e-7 * max(float(theirs.abs().max()), 1.0)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=limit, msg=lambda said: f"{what}: {said}")


def assert_same_run(run: Run, replay: Replay) -> None:
    """Weights, running averages, momentum of the weights that have one, and chains."""
    state = run.model.state_dict()
    assert set(state) == set(replay.state)
    for name, value in replay.state.items():
        assert_same(state[name], value, f"iteration {replay.iteration - 1}, {name}")
    named = {p: name for name, p in run.model.named_parameters()}
    momentum = {named[p]: of["momentum_buffer"] for p, of in run.optimiser.state.items()}
    assert set(momentum) == set(replay.momentum)
    for name, value in replay.momentum.items():
        assert_same(momentum[name], value, f"iteration {replay.iteration - 1}, momentum of {name}")
    assert_same(run.buffer.images, replay.buffer, f"iteration {replay.iteration - 1}, buffer")


@pytest.mark.parametrize("case", CASES)
def test_training_does_what_is_published(case):
    train = smoke.section("train", **SETTINGS | CASES[case])
    data, iterations = images_of(case)
    run = started(train, data)
    initial = Initial(data.images, BLOCK[data.shape[1]], RIDGE)
    dice = Dice(train, len(data), data.shape, len(initial.mean), lambda name: generator_for(name, train.seed))
    replay = Replay(train, data.images, data.labels, run.model.state_dict(), initial, dice.first_chains)
    assert_same(run.buffer.images, replay.buffer, "first chains")

    rows = []
    for _ in range(iterations):
        step(run)
        rows.append(replay.step(dice.iteration()))
        assert_same_run(run, replay)
        if (n := len(rows)) % train.log_every == 0:
            means = {key: sum(row[key] for row in rows[-train.log_every :]) / train.log_every for key in MEANS}
            assert run.rows[-1] == pytest.approx(rows[-1] | means, rel=1e-6, abs=1e-6), n - 1  # kept in float32
    assert len(run.rows) == iterations // train.log_every

    assert max(row["epoch"] for row in rows) == (2 if iterations == 10 else 1)
    assert any(row["epoch"] and row["iteration"] < train.warmup_iters for row in rows)
    assert iterations > len(data) // train.batch_size  # into a second pass of x+
    happened = {"gradients bounded", "gradients not bounded", "pixels clipped", "pixels not clipped"}
    happened |= {"restarts", "chains picked again"} | ({"augmented images"} if train.pyx_weight else set())
    assert {what for what, count in replay.seen.items() if count} == happened
