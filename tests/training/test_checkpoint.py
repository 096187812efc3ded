"""Checkpoints come back as they were, or not at all."""

import argparse
import zipfile

import pytest
import smoke
import torch

from mebm.errors import CheckpointError, DataError
from mebm.measure.features import load_network, save_network
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.method.energy import build_model
from mebm.settings.schema import IDLE
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mebm.training.release import from_release_state, read_release

ORACLE = smoke.ROOT / "tests" / "oracle"
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
        (
            lambda r: r.update({"replay_buffer": torch.zeros(2, 3, 32, 32).to(torch.float8_e4m3fn)}),
            r"the replay buffer is \[2, 3, 32, 32\] of float8_e4m3fn, expected images",
        ),
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


class Other:
    """An object that a checkpoint may hold beside its weights."""


def change(**values):
    return lambda record: {**record, **values}


def weights(**values):
    return lambda record: {**record, "model_state_dict": {**record["model_state_dict"], **values}}


def settings(**values):
    return lambda record: {**record, "train": {**record["train"], **values}}


ODD_VALUES = (None, "text", -1, 2.5, True, [], {}, [1, 2], {"a": 1}, torch.zeros(2), torch.zeros(()), 10**30)
KEYS = (
    "format",
    "version",
    "train",
    "shape",
    "n_classes",
    "iterations",
    "restarts",
    "model_state_dict",
    "replay_buffer",
)
ODD = [
    *(change(**{key: value}) for key in KEYS for value in ODD_VALUES),
    *(lambda record, key=key: {k: v for k, v in record.items() if k != key} for key in KEYS),
    *(
        change(shape=shape)
        for shape in ((1, 8), (1, 8, 9), (2, 8, 8), (1, 0, 0), (1, -8, -8), (1, 10**9, 10**9), (1.0, 8, 8))
    ),
    *(change(n_classes=n) for n in (10**9, 2**70, 0, 11)),
    *(change(iterations=n) for n in (-1, 2**70, 1.0)),
    *(
        settings(**{key: v})
        for key in ARCHITECTURE
        for v in (None, "x", -1, 10**9, [1], torch.zeros(2), float("nan"), {})
    ),
    *(settings(depth=depth) for depth in (11, 1006, 10**12)),
    *(settings(**{key: v}) for key in ("pyx_weight", "seed", "step_size", "init") for v in (None, "x", [1], -1)),
    settings(width=1000),
    *(weights(**{"energy_head.bias": v}) for v in (None, 1, "x", [0.0], torch.zeros(3), torch.zeros(1).to_sparse())),
    weights(**{"energy_head.bias": torch.zeros(1, dtype=torch.complex64)}),
    weights(**{"energy_head.bias": torch.zeros(1, dtype=torch.int64)}),
    weights(**{"energy_head.weight": torch.zeros(1, 1).expand(1, 64)}),
    weights(more=torch.zeros(1)),
    lambda record: {**record, "model_state_dict": dict(list(record["model_state_dict"].items())[1:])},
    lambda record: {**record, "model_state_dict": {1: torch.zeros(1), **record["model_state_dict"]}},
    lambda record: {**record, "model_state_dict": list(record["model_state_dict"].values())},
    change(replay_buffer=torch.zeros(0, 1, 8, 8)),
    change(replay_buffer=torch.zeros(6, 1, 8, 8, dtype=torch.uint8)),
    change(replay_buffer=torch.zeros(6, 1, 8, 8).to(torch.float8_e4m3fn)),
    change(replay_buffer=torch.zeros(6, 1, 8, 8).to(torch.float8_e5m2)),
    change(replay_buffer=torch.zeros(6, 1, 8, 8, dtype=torch.bool)),
    change(replay_buffer=torch.zeros(6, 1, 8, 8, dtype=torch.complex64)),
    change(replay_buffer=torch.zeros(6, 1, 8, 8).to_sparse()),
    change(replay_buffer=torch.zeros(1, 1, 1, 1).expand(10**9, 1, 8, 8)),
    change(replay_buffer=torch.zeros(6, 64)),
    change(replay_buffer=[torch.zeros(1, 8, 8)] * 6),
    lambda record: list(record.values()),
    lambda record: record["replay_buffer"],
    lambda _: None,
    lambda _: 7,
    lambda _: {1: 2},
]


def one_line_of(path, call) -> str:
    with pytest.raises(CheckpointError) as error:
        call()
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    assert len(text) < len(str(path)) + 300
    return text


@pytest.mark.parametrize("number", range(len(ODD)))
def test_an_odd_checkpoint_ends_in_one_line(checkpoint, tmp_path, number):
    path = tmp_path / "odd.pt"
    save_checkpoint(path, checkpoint)
    torch.save(ODD[number](torch.load(path, weights_only=True)), path)
    one_line_of(path, lambda: load_checkpoint(path))


@pytest.mark.parametrize("legacy", [False, True])
def test_an_object_of_a_class_is_told_apart_from_damage(checkpoint, release, tmp_path, legacy):
    path = tmp_path / "a.pt"
    save_checkpoint(path, checkpoint)
    ours = torch.load(path, weights_only=True)
    for record, load in (
        (ours, lambda: load_checkpoint(path)),
        (release, lambda: read_release(path, dict(ARCHITECTURE), (3, 32, 32), 10)),
    ):
        for value, name in ((argparse.Namespace(lr=0.1), "argparse.Namespace"), (Other(), f"{__name__}.Other")):
            torch.save({**record, "args": value}, path, _use_new_zipfile_serialization=not legacy)
            assert f"holds an object of class {name}, which is not loaded" in one_line_of(path, load)


def test_a_setting_that_is_needed_and_not_there_is_named(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.pt")
    assert one_line_of(tmp_path / "a.pt", lambda: loaded.train["seed"]).endswith(
        "lacks the setting train.seed; give another file, or train the run again"
    )
    save_checkpoint(tmp_path / "b.pt", loaded)  # with plain settings
    assert load_checkpoint(tmp_path / "b.pt").train == ARCHITECTURE | IDLE["train"]


def test_a_setting_that_is_null_stays_in_the_file(checkpoint, tmp_path):
    checkpoint.train = {**ARCHITECTURE, "grad_bound": None, "keep_every": 0, "validation_images": 3}
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    assert torch.load(tmp_path / "a.pt")["train"] == {**ARCHITECTURE, "grad_bound": None, "validation_images": 3}


RELEASE_ODD = [
    *(change(**{key: value}) for key in ("model_state_dict", "replay_buffer") for value in ODD_VALUES),
    *(weights(**{"energy_output.bias": v}) for v in (None, 1, "x", [0.0], torch.zeros(()), torch.zeros(1).to_sparse())),
    weights(**{"class_output.weight": torch.zeros(1, 1).expand(10**9, 64)}),
    weights(**{"class_output.weight": torch.zeros(())}),
    weights(**{"module.energy_output.bias": torch.zeros(1)}),
    lambda record: {**record, "model_state_dict": {1: torch.zeros(1), **record["model_state_dict"]}},
    change(replay_buffer=torch.zeros(0, 3, 32, 32)),
    change(replay_buffer=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)),
    change(replay_buffer=torch.zeros(2, 3, 32, 32).to(torch.float8_e4m3fn)),
    change(replay_buffer=torch.zeros(1, 1, 1, 1).expand(10**9, 3, 32, 32)),
    change(replay_buffer=torch.full((2, 3, 32, 32), float("nan"))),
    lambda record: list(record.values()),
    lambda _: None,
]


@pytest.mark.parametrize("n_classes", [0, 10])
@pytest.mark.parametrize("number", range(len(RELEASE_ODD)))
def test_an_odd_checkpoint_of_the_release_ends_in_one_line(release, tmp_path, number, n_classes):
    path = tmp_path / "r.pt"
    torch.save(RELEASE_ODD[number](release), path)
    one_line_of(path, lambda: read_release(path, dict(ARCHITECTURE), (3, 32, 32), n_classes))


def test_a_checkpoint_that_would_unpack_without_end(checkpoint, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, checkpoint)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    monkeypatch.setattr("mebm.files.UNPACKED", 10**5)
    with pytest.raises(DataError, match=r"a\.pt: would unpack to \d+ bytes"):
        load_checkpoint(path)


NETWORK = {"format": "mebm feature network", "network": "classifier", "channels": 1, "n_classes": 3, "width": 2}


@pytest.mark.parametrize(
    "odd",
    [
        *(change(**{key: value}) for key in (*NETWORK, "model_state_dict") for value in ODD_VALUES),
        *(change(**{key: value}) for key in ("channels", "n_classes", "width") for value in (0, 10**5, 10**9)),
        *(change(accuracy=value) for value in (*ODD_VALUES[1:], 1, -0.1, 1.5, float("nan"))),
        lambda record: {key: value for key, value in record.items() if key != "accuracy"},
        *(lambda record, key=key: {k: v for k, v in record.items() if k != key} for key in NETWORK if key != "network"),
        weights(**{"head.bias": [0.0]}),
        weights(**{"head.bias": torch.zeros(3, dtype=torch.int32)}),
        change(network="inception"),
        change(network="inception", preprocessing="tf1", weights_sha256=5),
        lambda _: [1],
        lambda record: {**record, "args": argparse.Namespace()},
    ],
)
def test_an_odd_feature_network_ends_in_one_line(tmp_path, odd):
    path = tmp_path / "features.pt"
    save_network(path, FeatureClassifier(1, 3, 2, 0.5))
    record = torch.load(path, weights_only=True)
    assert {key: record[key] for key in NETWORK} == NETWORK
    torch.save(odd(record), path)
    one_line_of(path, lambda: load_network(path))
