"""Checkpoints come back as they were, or not at all."""

import pytest
import torch

from mebm.checkpoint import Checkpoint, from_release_state, load_checkpoint, save_checkpoint
from mebm.energy import build_model
from mebm.errors import CheckpointError, DataError

ARCHITECTURE = {"depth": 10, "width": 1, "head": "energy", "norm": "batch", "dropout": 0.0}


@pytest.fixture
def checkpoint() -> Checkpoint:
    torch.manual_seed(0)
    model = build_model((1, 8, 8), 10, **ARCHITECTURE)
    return Checkpoint(model, torch.rand(6, 1, 8, 8) * 2 - 1, dict(ARCHITECTURE), (1, 8, 8), 10, 7)


def rewritten(path, **changes):
    record = torch.load(path, weights_only=True)
    torch.save({**record, **changes}, path)


def test_round_trip(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert not loaded.model.training
    assert torch.equal(loaded.replay_buffer, checkpoint.replay_buffer)
    state = loaded.model.state_dict()
    assert all(torch.equal(state[key], value) for key, value in checkpoint.model.state_dict().items())
    assert (loaded.shape, loaded.n_classes, loaded.iterations) == ((1, 8, 8), 10, 7)


def test_equal_contents_give_equal_bytes(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    save_checkpoint(tmp_path / "longer_name.pt", checkpoint)
    assert (tmp_path / "a.pt").read_bytes() == (tmp_path / "longer_name.pt").read_bytes()


def test_actnorm_state_survives(tmp_path):
    architecture = {**ARCHITECTURE, "norm": "actnorm"}
    model = build_model((1, 8, 8), 10, **architecture).train()
    x = torch.randn(16, 1, 8, 8).clamp(-1, 1)
    expected = model.energy(x)
    save_checkpoint(tmp_path / "a.pt", Checkpoint(model, x, architecture, (1, 8, 8), 10, 1))
    loaded = load_checkpoint(tmp_path / "a.pt").model.train()
    assert torch.allclose(loaded.energy(x), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 99}, "format version 99"),
        ({"format": "other"}, "not a checkpoint of this project"),
        ({"n_classes": 3}, "weights do not fit"),
        ({"replay_buffer": torch.full((6, 1, 8, 8), 2.0)}, "replay buffer"),
        ({"replay_buffer": torch.full((6, 1, 8, 8), float("nan"))}, "replay buffer"),
    ],
)
def test_what_does_not_fit_is_refused(checkpoint, tmp_path, changes, message):
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    rewritten(tmp_path / "a.pt", **changes)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(tmp_path / "a.pt")


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"no\.pt: no such file"):
        load_checkpoint(tmp_path / "no.pt")


def test_release_names():
    state = dict.fromkeys(("module.f.conv1.weight", "_orig_mod.energy_output.bias", "class_output.weight"), 0)
    assert list(from_release_state(state)) == ["backbone.conv1.weight", "energy_head.bias", "class_head.weight"]
