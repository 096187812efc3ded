"""Checkpoints come back as they were, or not at all."""

from pathlib import Path

import pytest
import torch

from mebm.checkpoint import Checkpoint, from_release_state, load_checkpoint, read_release, save_checkpoint
from mebm.energy import build_model
from mebm.errors import CheckpointError, DataError

ORACLE = Path(__file__).parent / "oracle"
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


@pytest.fixture
def release() -> dict:
    """A checkpoint of the public release, in small: 3x32x32, ten classes, WRN-10-1."""
    return torch.load(ORACLE / "wrn10_1_uncond.pt", weights_only=True)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_a_release_checkpoint_becomes_ours(release, tmp_path, prefix):
    state = {prefix + key: value for key, value in release["model_state_dict"].items()}
    torch.save({"model_state_dict": state, "replay_buffer": release["replay_buffer"]}, tmp_path / "r.pt")
    checkpoint = read_release(tmp_path / "r.pt", dict(ARCHITECTURE), (3, 32, 32), 10)
    assert torch.equal(checkpoint.model.energy_head.weight, release["model_state_dict"]["energy_output.weight"])
    save_checkpoint(tmp_path / "ours.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "ours.pt")
    assert torch.equal(loaded.replay_buffer, release["replay_buffer"])
    x = release["replay_buffer"][:2]
    assert torch.equal(loaded.model.energy(x), checkpoint.model.energy(x))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r["model_state_dict"].pop("f.conv1.weight"), r"lacks the parameter f\.conv1\.weight"),
        (lambda r: r["model_state_dict"].update({"f.extra": torch.zeros(1)}), r"a parameter too many, f\.extra"),
        (
            lambda r: r["model_state_dict"].update({"class_output.weight": torch.zeros(100, 64)}),
            r"class_output\.weight has shape \[100, 64\], expected \[10, 64\]",
        ),
        (lambda r: r.pop("replay_buffer"), "lacks model_state_dict or replay_buffer"),
        (lambda r: r.update({"replay_buffer": r["replay_buffer"] * 2}), "the replay buffer is"),
        (lambda r: r.update({"replay_buffer": torch.zeros(2, 3, 16, 16)}), "the replay buffer is"),
    ],
)
def test_a_release_checkpoint_that_does_not_fit(release, tmp_path, change, message):
    change(release)
    torch.save(release, tmp_path / "r.pt")
    with pytest.raises(CheckpointError, match=message):
        read_release(tmp_path / "r.pt", dict(ARCHITECTURE), (3, 32, 32), 10)


def test_a_release_checkpoint_of_another_depth_or_damaged(release, tmp_path):
    torch.save(release, tmp_path / "r.pt")
    with pytest.raises(CheckpointError, match=r"lacks the parameter .* in all"):
        read_release(tmp_path / "r.pt", {**ARCHITECTURE, "depth": 16}, (3, 32, 32), 10)
    (tmp_path / "r.pt").write_bytes((tmp_path / "r.pt").read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="is not a readable checkpoint"):
        read_release(tmp_path / "r.pt", dict(ARCHITECTURE), (3, 32, 32), 10)


@pytest.mark.parametrize("content", [b"seed: 0\nlist: [1, 2]\n", b""])
def test_another_file_is_never_to_be_deleted(tmp_path, content):
    path = tmp_path / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(path)
    reason = "it is damaged, or not a file of this format"
    advice = "give another file, or train the run again"
    assert str(error.value) == f"{path}: is not a readable checkpoint ({reason}); {advice}"


def test_weights_that_do_not_fit_are_said_in_one_whole_sentence(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    rewritten(tmp_path / "a.pt", n_classes=3)
    with pytest.raises(CheckpointError, match=r"its weights do not fit its own settings; give another file, or train"):
        load_checkpoint(tmp_path / "a.pt")
