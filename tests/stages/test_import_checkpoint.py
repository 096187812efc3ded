"""The stage that makes a run of a checkpoint of this project: which weights it takes, and what it refuses."""

import json
from pathlib import Path

import pytest
import smoke
import torch
import yaml

from mebm.data.archives import save_images
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mebm.training.loop import train_model
from stages import import_checkpoint

TRAIN = {"pyx_weight": 1.0, "ema_decays": [0.5], "batch_size": 16, "label_batch_size": 400, "buffer_size": 40}


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory) -> Path:
    """A folder with training images and the checkpoint of a short training on them."""
    folder = tmp_path_factory.mktemp("made")
    save_images(folder / "train.npz", digits.images.numpy(), digits.labels.numpy())
    train = smoke.section("train", **TRAIN)
    init = GaussianInit.from_moments(*fit_gaussian(digits.images), digits.shape, 1e-4)
    run = train_model(train, digits, init, torch.device("cpu"))
    parts = (run.model, run.buffer.images, train.model_dump(), digits.shape, digits.n_classes, run.iterations)
    save_checkpoint(folder / "checkpoint.pt", Checkpoint(*parts, averages=run.averages))
    return folder


def imported(made: Path, out: Path, train: dict, **weights) -> int:
    content = smoke.small_params()
    entry = {"method": "averaged", "dataset": "digits", "checkpoint": "checkpoint.pt", "train": train}
    content["suite"] |= {"imported": {"ema": {**entry, "weights": weights}}}
    out.mkdir()
    (out / "params.yaml").write_text(yaml.safe_dump(content))
    arguments = ("--run", "ema", "--checkpoint", made / "checkpoint.pt", "--train", made / "train.npz", "--out", out)
    arguments += ("--features", made / "features.pt")  # which is not there: nothing is chosen by it
    return import_checkpoint.main([*map(str, arguments), "--params", str(out / "params.yaml"), "--logs", str(out)])


def test_the_averages_take_the_place_of_the_weights(made, tmp_path):
    assert imported(made, tmp_path / "a", TRAIN, ema_decay=0.5, bn_images=100, sgld_steps=2) == 0
    before, after = load_checkpoint(made / "checkpoint.pt"), load_checkpoint(tmp_path / "a" / "checkpoint.pt")
    for name, value in after.model.named_parameters():
        assert torch.equal(value, before.averages[0.5][name]), name
    assert not torch.equal(after.replay_buffer, before.replay_buffer)
    assert not torch.equal(after.model.backbone.bn1.running_mean, before.model.backbone.bn1.running_mean)
    assert after.averages == {}
    assert json.loads((tmp_path / "a" / "provenance.json").read_text())["weights"]["ema_decay"] == 0.5
    assert imported(made, tmp_path / "b", TRAIN, ema_decay=0.5, bn_images=100, sgld_steps=2) == 0
    assert (tmp_path / "a" / "checkpoint.pt").read_bytes() == (tmp_path / "b" / "checkpoint.pt").read_bytes()


@pytest.mark.parametrize(
    ("train", "weights", "message"),
    [
        (
            TRAIN,
            {"ema_decay": 0.9},
            "checkpoint.pt: the run has no averaged weights of decay 0.9, but 0.5; set train.e",
        ),
        (
            {**TRAIN, "n_steps": 3},
            {},
            "checkpoint.pt: was trained with train.n_steps 2, but here it is 3; give the impor",
        ),
    ],
)
def test_what_does_not_fit_is_refused(made, tmp_path, capsys, train, weights, message):
    assert imported(made, tmp_path / "a", train, **weights) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "a" / "checkpoint.pt").exists()
