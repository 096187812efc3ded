"""Estimates of training: what was measured once on this machine is not forgotten, and a slow moment does not count."""

import json
import re

import pytest
import smoke
import torch

from mebm.__main__ import main
from mebm.training import cost
from mebm.training.cost import Rates, estimate
from mebm.training.operations import training_cost

SHAPE, CPU = (1, 8, 8), torch.device("cpu")


def test_the_best_rate_ever_seen_counts(tmp_path, monkeypatch):
    train = smoke.section("train")
    path = tmp_path / "rates.json"
    rates = iter([2e9, 1e9, 3e9])  # as other programs leave the machine from moment to moment
    monkeypatch.setattr(cost, "_measured", lambda *_: next(rates))
    hours = [estimate(train, SHAPE, 1000, True, CPU, Rates(path)).hours for _ in range(3)]
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


def test_a_known_card_counts_by_what_was_measured_on_it():
    train = smoke.section("train", depth=28, width=10, precision="bf16")
    found = estimate(train, (3, 32, 32), 50_000, True, "H100")
    assert found.basis == "measured on an H100"
    assert found.hours == pytest.approx(found.cost.flops / 111e12 / 3600)
    assert cost.CARDS == ["H100"]  # which `python -m mebm cost --card` takes, without PyTorch
    small = estimate(smoke.section("train"), SHAPE, 1000, True, "H100")
    assert (small.hours, small.basis) == (None, "not measured on an H100")
    assert estimate(smoke.section("train"), SHAPE, 1000, True, CPU).basis == "a pass timed here"


def test_the_paper_on_an_h100(capsys, tmp_path):
    """M-EBM with K = 5, 78,000 iterations of 12.19 TFLOP at 110 ms (docs/performance.md): 2.4 hours."""
    path = tmp_path / "params.yaml"
    path.write_text((smoke.ROOT / "params.yaml").read_text().replace("\nsuite: *demo", "\nsuite: *paper"))
    arguments = ["cost", "--params", str(path), "--data", str(tmp_path), "--card", "H100", "--runs", "mebm_cifar10"]
    assert main(arguments) == 0
    assert " 78,000 " in (said := capsys.readouterr().err)
    assert re.search(r"2\.3\d +H100: measured on an H100", said)


def test_hours_of_runs_that_nobody_measured_are_not_summed(capsys, tmp_path):
    arguments = ["cost", "--params", str(smoke.ROOT / "params.yaml"), "--data", str(tmp_path), "--card", "H100"]
    assert main(arguments) == 0
    assert capsys.readouterr().err.endswith("\n2 runs, not measured on an H100\n")


def test_images_that_are_held_out_are_not_trained_on(capsys, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((smoke.ROOT / "params.yaml").read_text().replace("\nsuite: *demo", "\nsuite: *beyond"))
    arguments = ["cost", "--params", str(path), "--data", str(tmp_path), "--card", "H100", "--runs", "held_out_0"]
    assert main(arguments) == 0
    assert re.search(r"^held_out_0 +45,000 +70,200 +1\.18 +2\.94 ", capsys.readouterr().err, re.MULTILINE)


@pytest.mark.parametrize(("pyx_weight", "ratio"), [(0.0, 1.375), (1.0, 2176 / 1408)])
def test_a_second_gradient_costs_its_passes(pyx_weight, ratio):
    def images(algorithm: str) -> int:
        train = smoke.section("train", n_steps=5, pyx_weight=pyx_weight, algorithm=algorithm)
        return training_cost(train, SHAPE, 1000, True).images

    assert images("sharpness_aware") / images("published") == pytest.approx(ratio)
