"""Weights that training keeps at looks, through the commands: interrupted, diverged, chosen without a test split."""

import json
import os
import re
import signal
from pathlib import Path

import pytest
import smoke
import torch
import yaml

from mebm.data.archives import save_images
from mebm.data.images import ImageSet
from mebm.measure.features import save_network
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.training.checkpoint import load_checkpoint
from mebm.training.run import Run
from stages import accuracy, gaussian, import_checkpoint, sample, train

TRAIN = {"keep_every": 2, "validation_images": 300, "epochs": 3, "label_batch_size": 399, "log_every": 2}
CHOSEN = {"method": "chosen", "dataset": "digits", "checkpoint": "results/mjem/train/snapshots"}


def write_params(folder: Path, **train) -> None:
    content = smoke.small_params()
    content["train"] |= {**TRAIN, **train}
    del content["suite"]["trained"]["mebm"]
    for by in ("accuracy", "quality"):
        content["suite"]["imported"][f"by_{by}"] = {
            **{**CHOSEN, "method": f"by {by}"},
            "weights": {"choose": by, "bn_images": 100, "sgld_steps": 1},
        }
    good = {"method": "last good", "dataset": "digits", "checkpoint": "data/downloads/good.pt"}
    good |= {"train": {"pyx_weight": 1.0, **train}, "weights": {"bn_images": 0, "sgld_steps": 0}}
    content["suite"]["imported"]["good"] = good
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def call(folder: Path, stage, run: str, out: str, state: str = "state", **paths) -> int:
    """The exit status of a stage on files of the folder."""
    argv = ["--run", run, "--params", "params.yaml", "--logs", "logs", "--state", state, "--out", out]
    before = Path.cwd()
    os.chdir(folder)
    try:
        return stage.main([*argv, *(word for key, path in paths.items() for word in (f"--{key}", str(path)))])
    finally:
        os.chdir(before)


def trained(folder: Path, out: str, state: str = "state") -> int:
    return call(folder, train, "mjem", out, state, train="train.npz", test="test.npz", gaussian="gaussian.npz")


def chosen(folder: Path, by: str, out: str) -> dict:
    """What the record of a choice says."""
    paths = {"checkpoint": "trained/snapshots", "train": "train.npz", "features": "features.pt"}
    assert call(folder, import_checkpoint, f"by_{by}", out, **paths) == 0
    return json.loads((folder / out / "provenance.json").read_text())["choice"]


@pytest.fixture(scope="module")
def made(digits: ImageSet, tmp_path_factory) -> Path:
    """A folder with data and what a training leaves that nothing interrupted."""
    folder = tmp_path_factory.mktemp("made")
    save_images(folder / "train.npz", digits.images.numpy(), digits.labels.numpy())
    save_images(folder / "test.npz", digits.images[:100].numpy(), digits.labels[:100].numpy())
    torch.manual_seed(0)
    save_network(folder / "features.pt", FeatureClassifier(1, 10, 4, 0.5))
    write_params(folder)
    argv = ["--dataset", "digits", "--params", folder / "params.yaml", "--logs", folder / "logs"]
    argv += ["--train", folder / "train.npz", "--out", folder / "gaussian.npz"]
    assert gaussian.main([str(word) for word in argv]) == 0
    assert trained(folder, "trained") == 0
    return folder


def test_training_leaves_the_weights_of_its_looks(made):
    looks = sorted(path.name for path in (made / "trained" / "snapshots").glob("*.pt"))
    assert looks == ["epoch_0002.pt", "epoch_0003.pt"]  # every second look, and the last
    last = load_checkpoint(made / "trained" / "checkpoint.pt")
    look = load_checkpoint(made / "trained" / "snapshots" / "epoch_0003.pt")
    assert torch.equal(look.replay_buffer, last.replay_buffer)
    assert (made / "trained" / "snapshots" / "epoch_0003.pt").read_bytes() == (
        made / "trained" / "checkpoint.pt"
    ).read_bytes()
    heading, *rows = (made / "trained" / "epochs.csv").read_text().splitlines()
    assert heading == "epoch,iteration,accuracy,loss,validation_accuracy,validation_loss"
    assert all(len(row.split(",")) == 6 and "" not in row.split(",") for row in rows)
    where = json.loads((made / "trained" / "provenance.json").read_text())
    assert (where["training_images"], where["validation_images"]) == (1197, 300)


def test_an_interrupted_training_leaves_the_same_weights_of_its_looks(made, monkeypatch, capsys):
    log, calls = train._Record.log, []

    def interrupting(self, run: Run) -> None:
        log(self, run)
        calls.append(run.iteration)
        if run.iteration == 8 and calls.count(8) == 1:  # after the look at epoch 2, before the end
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train._Record, "log", interrupting)
    assert trained(made, "again", "other") == 130
    assert "with its state saved" in capsys.readouterr().err
    assert not (made / "again" / "checkpoint.pt").exists()
    assert not (made / "again" / "snapshots").exists()
    assert len(list((made / "other" / "mjem").glob("*/snapshots/epoch_*.pt"))) == 1
    assert trained(made, "again", "other") == 0
    assert calls[-1] == 9
    for path in (made / "trained").rglob("*"):
        if path.suffix in (".pt", ".npz", ".csv"):
            assert (made / "again" / path.relative_to(made / "trained")).read_bytes() == path.read_bytes(), path


@pytest.mark.parametrize("by", ["accuracy", "quality"])
def test_the_choice_does_not_look_at_the_test_split(made, by, digits):
    test = made / "test.npz"
    before, content = chosen(made, by, f"before_{by}"), test.read_bytes()
    assert set(before["values"]) == {"2", "3"}
    assert before["epoch"] == int(
        (max if by == "accuracy" else min)(before["values"], key=lambda epoch: (before["values"][epoch], 0))
    )
    assert (before["n_images"], before["split"], before["test_split_read"]) == (300, "validation", False)
    try:
        test.unlink()
        assert chosen(made, by, f"absent_{by}") == before
        save_images(test, digits.images[500:600].numpy(), digits.labels[:100].numpy())
        assert chosen(made, by, f"other_{by}") == before
    finally:
        test.write_bytes(content)
    files = [(made / f"{kind}_{by}" / "checkpoint.pt").read_bytes() for kind in ("before", "absent", "other")]
    assert files[0] == files[1] == files[2]
    for stage, out, paths in ((accuracy, f"accuracy_{by}.json", {"test": "test.npz"}), (sample, f"sample_{by}", {})):
        checkpoint = f"before_{by}/checkpoint.pt"
        assert call(made, stage, f"by_{by}", out, checkpoint=checkpoint, **paths) == 0
    for record in (made / f"accuracy_{by}.json", made / f"sample_{by}" / "manifest.json"):
        assert json.loads(record.read_text())["choice"] == before


def test_after_a_divergence_the_last_good_weights_can_be_evaluated(made, monkeypatch, capsys):
    step = train.train_model.__globals__["step"]

    def diverging(run: Run) -> None:
        if run.iteration == 7:
            with torch.no_grad():
                run.model.energy_head.weight.fill_(1e9)
        step(run)

    monkeypatch.setitem(train.train_model.__globals__, "step", diverging)
    write_params(made, seed=3)
    try:
        assert trained(made, "diverged") == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        match = re.search(r"; (state/mjem/\w+/snapshots/epoch_0002\.pt) holds the weights after 2 epochs \(docs", line)
        good = made / match[1]
        assert load_checkpoint(good).iterations == 6
        assert not (made / "diverged").exists()
        paths = {"checkpoint": good.relative_to(made), "train": "train.npz", "features": "features.pt"}
        assert call(made, import_checkpoint, "good", "good", **paths) == 0
        known = load_checkpoint(good).model.energy_head.weight
        assert torch.equal(load_checkpoint(made / "good" / "checkpoint.pt").model.energy_head.weight, known)
    finally:
        write_params(made)
