"""Weights chosen on held-out training images, from training to the table, under both engines."""

import csv
import json

import pytest
import smoke
from engines import digests, planned, run, stale

pytestmark = [pytest.mark.slow, pytest.mark.more]

TRAINED = {"pyx_weight": 1.0, "epochs": 3, "keep_every": 1, "validation_images": 200}


def suite() -> dict:
    """A training that keeps its weights, and runs of the best ones, as training left them."""
    content = smoke.small_params()
    trained = {"mjem": {"method": "M-JEM", "dataset": "digits", "train": TRAINED}}
    entry = {"dataset": "digits", "checkpoint": "results/mjem/train/snapshots"}
    imported = {
        f"best_{by}": {
            **entry,
            "method": f"M-JEM by {by}",
            "weights": {"choose": by, "bn_images": 0, "sgld_steps": 0},
        }
        for by in ("accuracy", "quality")
    }
    return content | {"suite": smoke.suite("chosen", {"digits": {}}, trained, imported)}


def test_both_engines_choose_the_same_weights_by_the_numbers_of_the_log(project):
    one, two = project("snakemake", suite()), project("dvc", suite())
    run(one, "snakemake")
    run(two, "dvc", "repro")
    assert digests(one) == digests(two)
    for folder in (one, two):
        assert planned(folder) == set()
        assert stale(folder) == set()

    with open(one / "results/mjem/train/epochs.csv", encoding="utf-8") as file:
        log = {row["epoch"]: float(row["validation_accuracy"]) for row in csv.DictReader(file) if row["epoch"] != "0"}
    choice = json.loads((one / "results/best_accuracy/train/provenance.json").read_text())["choice"]
    assert choice["values"] == pytest.approx(log)
    assert choice["epoch"] == int(max(log, key=lambda epoch: (log[epoch], -int(epoch))))
    assert (choice["n_images"], choice["test_split_read"]) == (200, False)
    table = (one / "results/tables/demo.md").read_text()
    assert f"best by validation accuracy (epoch {choice['epoch']} of 3)" in table
