"""Learning rates, epochs and optimisers."""

import pytest
import smoke

from mebm.errors import DataError
from mebm.method.energy import build_model
from mebm.method.schedule import iterations_per_epoch, lr_at, make_optimiser


def test_learning_rate():
    schedule = {"lr": 0.1, "decay_epochs": [2, 4], "decay_factor": 0.2}
    assert lr_at(0, 0, warmup_iters=1000, **schedule) == 0
    assert lr_at(1000, 0, warmup_iters=1000, **schedule) == 0.1
    assert lr_at(0, 0, warmup_iters=0, **schedule) == 0.1
    assert lr_at(5000, 4, warmup_iters=1000, **schedule) == pytest.approx(0.004)
    # the release loses a decay inside the warm-up
    assert lr_at(500, 2, warmup_iters=1000, **schedule) == pytest.approx(0.01)


def test_an_epoch_is_one_pass_of_the_labelled_stream():
    train = smoke.section("train")
    assert iterations_per_epoch(train, 50_000, labelled=True) == 390
    assert iterations_per_epoch(train, 30_000, labelled=False) == 468
    with pytest.raises(DataError, match="fewer than a batch"):
        iterations_per_epoch(train, 100, labelled=True)


def test_optimisers_take_their_settings():
    model = build_model((1, 8, 8), 1, depth=10, width=1)
    sgd = make_optimiser(model, smoke.section("train", momentum=0.7, weight_decay=0.1)).defaults
    assert (sgd["momentum"], sgd["weight_decay"]) == (0.7, 0.1)
    assert make_optimiser(model, smoke.section("train", optimiser="adam")).defaults["betas"] == (0.9, 0.999)
