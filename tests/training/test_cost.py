"""Estimates of training: what was measured once on this machine is not forgotten, and a slow moment does not count."""

import json

import pytest
import smoke
import torch

from mebm.training import cost
from mebm.training.cost import Rates, estimate
from mebm.training.operations import training_cost

SHAPE, CPU = (1, 8, 8), torch.device("cpu")


def test_the_best_rate_ever_seen_counts(tmp_path, monkeypatch):
    train = smoke.section("train")
    path = tmp_path / "rates.json"
    rates = iter([2e9, 1e9, 3e9])  # as other programs leave the machine from moment to moment
    monkeypatch.setattr(cost, "_measured", lambda *_: next(rates))
    hours = [estimate(train, SHAPE, 1000, True, CPU, Rates(path))[1] for _ in range(3)]
    flops = training_cost(train, SHAPE, 1000, True).flops
    assert hours == pytest.approx([flops / rate / 3600 for rate in (2e9, 2e9, 3e9)])


def test_a_rate_is_measured_and_kept_by_network(tmp_path):
    path = tmp_path / "rates.json"
    first = Rates(path).of(smoke.section("train"), SHAPE, CPU)
    assert first > 1e6
    Rates(path).of(smoke.section("train", width=2), SHAPE, CPU)
    kept = json.loads(path.read_text())
    assert len(kept) == 2
    assert first in kept.values()


@pytest.mark.parametrize("content", ["", "[]", '{"a": "b"}', "{"])
def test_a_damaged_file_is_measured_anew(tmp_path, content):
    path = tmp_path / "rates.json"
    path.write_text(content)
    assert Rates(path).of(smoke.section("train"), SHAPE, CPU) > 1e6
    assert len(json.loads(path.read_text())) == 1
