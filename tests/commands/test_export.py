"""`python -m mebm export`: what comes back from an exported folder, what its card says, and what is refused."""

import json
import resource
import shutil
import struct
from pathlib import Path

import pytest
import smoke
import torch
import yaml
from engines import copy_project, run
from safetensors.torch import save_file

import mebm
from mebm.__main__ import main
from mebm.data.images import load_images
from mebm.data.prepare import prepare
from mebm.errors import MebmError
from mebm.files import sha256, write_json
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.settings.suite import load_params
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mebm.training.hub import BUFFER, CHAINS, CONFIG, WEIGHTS, read_exported, write_exported
from mebm.training.loop import train_model
from stages import import_checkpoint

TRAIN = {"pyx_weight": 1.0, "ema_decays": [0.5], "batch_size": 16, "label_batch_size": 400, "buffer_size": 40}
EXPORT = Path("results/export/mjem")
AGAIN = Path("results/again/train")
MEASURED = {"n_images": 40, "reference_split": "train", "precision": 0.5, "recall": None, "status": "ok"}


def params(**imported) -> str:
    content = smoke.small_params()
    content["suite"]["trained"]["mjem"]["train"] = TRAIN
    content["suite"]["imported"] = {
        name: {"method": name, "dataset": "digits", "checkpoint": str(path), "train": TRAIN, "weights": weights}
        for name, (path, weights) in imported.items()
    }
    return yaml.safe_dump(content, sort_keys=False)


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory) -> Path:
    """A project's folder with the results of a run of a few iterations."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "params.yaml").write_text(params())
    prepare(smoke.section("dataset"), "digits", folder / "data" / "digits")
    train = smoke.section("train", **TRAIN)
    init = GaussianInit.from_moments(*fit_gaussian(digits.images), digits.shape, 1e-4)
    trained = train_model(train, digits, init, torch.device("cpu"))
    parts = (trained.model, trained.buffer.images, train.model_dump(), digits.shape, digits.n_classes, 4)
    results = folder / "results" / "mjem"
    save_checkpoint(results / "train" / "checkpoint.pt", Checkpoint(*parts, averages=trained.averages))
    of = {"checkpoint_sha256": sha256(results / "train" / "checkpoint.pt")}
    full = {"fcd": 1.25, "classifier_score": 2.125, **MEASURED, **of}
    write_json(results / "quality.json", {"full": full, "release_0.9": {**full, "fcd": 7.5}})
    write_json(results / "accuracy.json", {"accuracy": 0.9375, "loss": 0.25, "n_images": 300, **of})
    (results / "sample").mkdir()
    (results / "sample" / "grid.png").write_bytes(b"picture")
    return folder


@pytest.fixture
def project(made, tmp_path, monkeypatch) -> Path:
    """A copy of it, the current folder."""
    shutil.copytree(made, tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


def card(folder: Path) -> tuple[dict, str]:
    _, head, text = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(head), text


def test_energies_come_back_bit_for_bit(project, digits):
    assert main(["export", "mjem"]) == 0
    ours, theirs = mebm.load("results/mjem", "cpu"), mebm.load("results/export/mjem", "cpu")
    for bn_stats in ("running", "batch"):
        assert torch.equal(
            ours.energies(digits.images[:50], bn_stats, 50), theirs.energies(digits.images[:50], bn_stats, 50)
        )
    assert torch.equal(ours.buffer.images, theirs.buffer.images)
    assert ours.settings == theirs.settings
    assert repr(theirs) == repr(ours).replace("results/mjem/train/checkpoint.pt", "results/export/mjem")
    assert not theirs.model.training
    by_weights = mebm.load(f"results/export/mjem/{WEIGHTS}", "cpu")
    assert torch.equal(by_weights.logits(digits.images[:5]), ours.logits(digits.images[:5]))


def test_every_file_has_the_rights_that_the_user_gives(project):
    assert main(["export", "mjem"]) == 0
    assert len({path.stat().st_mode for path in EXPORT.iterdir()}) == 1


def test_a_disk_that_is_full_is_one_line_and_leaves_nothing(project, capsys):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        assert main(["export", "mjem"]) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    said = capsys.readouterr().err
    assert said.startswith(f"error: {EXPORT / WEIGHTS}: cannot be written (File too large); check the folder's")
    assert said.count("\n") == 1
    assert not list(EXPORT.iterdir())


def test_equal_runs_give_equal_bytes(project, tmp_path):
    for name in ("a", "b"):
        assert main(["export", "mjem", "--out", str(tmp_path / name)]) == 0
    names = sorted(path.name for path in (tmp_path / "a").iterdir() if not path.name.startswith("."))
    assert names == sorted([WEIGHTS, CHAINS, CONFIG, "README.md", "grid.png"])
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_the_numbers_of_the_card_are_those_of_the_runs_files(project):
    assert main(["export", "mjem", "--licence", "cc-by-nc-4.0"]) == 0
    head, text = card(Path("results/export/mjem"))
    assert (head["license"], head["datasets"]) == ("cc-by-nc-4.0", ["sklearn_digits"])
    ((name, results),) = [(entry["name"], entry["results"]) for entry in head["model-index"]]
    assert name == "mjem"
    found = {
        (result["task"]["type"], metric["type"], metric["args"].get("protocol")): metric["value"]
        for result in results
        for metric in result["metrics"]
    }
    images, classes = "unconditional-image-generation", "image-classification"
    assert found == {
        (images, "fcd", "full"): 1.25,
        (images, "classifier_score", "full"): 2.125,
        (images, "precision", "full"): 0.5,
        (images, "fcd", "release_0.9"): 7.5,
        (images, "classifier_score", "release_0.9"): 2.125,
        (images, "precision", "release_0.9"): 0.5,
        (classes, "accuracy", None): 0.9375,
        (classes, "loss", None): 0.25,
    }
    assert {result["dataset"]["name"] for result in results} == {"digits"}
    assert [(result["task"]["type"], result["dataset"]["split"]) for result in results] == [
        *((images, "train"), (classes, "test"))
    ]
    assert "| fcd ↓ | 1.25 | 40 | full |" in text
    assert "| accuracy % ↑ | 93.75 | 300 | held out |" in text


def test_images_that_were_measured_by_a_file_from_elsewhere_are_of_no_split(project):
    path = Path("results/mjem/quality.json")
    write_json(path, {name: {**of, "reference_split": None} for name, of in json.loads(path.read_text()).items()})
    assert main(["export", "mjem"]) == 0
    results = card(EXPORT)[0]["model-index"][0]["results"]
    assert [result["dataset"].get("split") for result in results] == [None, "test"]


def test_averaged_weights_are_exported_without_the_metrics_of_others(project):
    assert main(["export", "mjem", "--ema-decay", "0.5"]) == 0
    checkpoint = load_checkpoint("results/mjem/train/checkpoint.pt")
    found = mebm.load("results/export/mjem", "cpu")
    for name, value in found.model.named_parameters():
        assert torch.equal(value, checkpoint.averages[0.5][name]), name
    moved = found.model.backbone.bn1.running_mean
    assert not torch.equal(moved, checkpoint.model.backbone.bn1.running_mean)
    head, text = card(Path("results/export/mjem"))
    assert "model-index" not in head
    assert "moving averages of its weights, of decay 0.5" in text
    assert not Path("results/export/mjem/grid.png").exists()


def test_averaged_weights_are_exported_as_an_import_has_them(project, digits):
    """Also where training held images out: BatchNorm's statistics are not of these."""
    path = Path("results/mjem/train/checkpoint.pt")
    checkpoint = load_checkpoint(path)
    checkpoint.train = {**checkpoint.train, "validation_images": 1000}
    save_checkpoint(path, checkpoint)
    assert main(["export", "mjem", "--ema-decay", "0.5"]) == 0
    assert f"over {len(load_images('data/digits/train.npz')) - 1000} training images" in card(EXPORT)[1]
    content = yaml.safe_load(params(again=("data/downloads/a.pt", {"ema_decay": 0.5})))
    content["suite"]["imported"]["again"]["train"] = {**TRAIN, "validation_images": 1000}
    Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    files = {"checkpoint": path, "train": "data/digits/train.npz", "features": "data/digits/features.pt", "out": "out"}
    words = [word for key, value in files.items() for word in (f"--{key}", str(value))]
    assert import_checkpoint.main(["--run", "again", *words]) == 0
    ours, theirs = mebm.load("out", "cpu"), mebm.load(EXPORT, "cpu")
    assert torch.equal(ours.energies(digits.images[:9]), theirs.energies(digits.images[:9]))
    assert torch.equal(ours.buffer.images, theirs.buffer.images)


@pytest.fixture
def imported(project):
    """Makes the run `again` of a checkpoint's path, as its stage does, and records of it."""

    def make(path, weights, train=TRAIN) -> None:
        content = yaml.safe_load(params(again=(path, weights)))
        if str(path).startswith("results/mjem/"):  # of the suite's own training, whose section it has
            content["suite"]["trained"]["mjem"]["train"] = train
            del content["suite"]["imported"]["again"]["train"]
        else:
            content["suite"]["imported"]["again"]["train"] = train
        Path("params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        files = {"checkpoint": path, "train": "data/digits/train.npz", "features": "features.pt", "out": AGAIN}
        words = [word for key, value in files.items() for word in (f"--{key}", str(value))]
        assert import_checkpoint.main(["--run", "again", *words]) == 0
        hash_ = {"checkpoint_sha256": sha256(AGAIN / "checkpoint.pt")}
        write_json(AGAIN.parent / "quality.json", {"full": {"fcd": 1.25, "classifier_score": 2.5, **MEASURED, **hash_}})
        write_json(AGAIN.parent / "accuracy.json", {"accuracy": 0.5, "loss": 1.0, "n_images": 300, **hash_})
        (AGAIN.parent / "sample").mkdir(exist_ok=True)
        (AGAIN.parent / "sample" / "grid.png").write_bytes(b"picture")

    return make


def released(path: Path) -> None:
    """Write the weights and chains of the run as a file of the public release, which tells no settings."""
    checkpoint = load_checkpoint("results/mjem/train/checkpoint.pt")
    names = {"backbone.": "f.", "energy_head.": "energy_output.", "class_head.": "class_output."}
    state = {}
    for name, value in checkpoint.model.state_dict().items():
        ours = next(ours for ours in names if name.startswith(ours))
        state[names[ours] + name.removeprefix(ours)] = value
    torch.save({"model_state_dict": state, "replay_buffer": checkpoint.replay_buffer}, path)


CHOOSING = {**TRAIN, "epochs": 3, "keep_every": 1, "validation_images": 300}


def kept(folder: Path) -> None:
    """Snapshots of three epochs, of equal weights: of these the earliest are the best."""
    checkpoint = load_checkpoint("results/mjem/train/checkpoint.pt")
    checkpoint.train |= CHOOSING
    for epoch in (1, 2, 3):
        checkpoint.iterations = 10 * epoch
        save_checkpoint(folder / f"epoch_{epoch:04d}.pt", checkpoint)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (
            {"ema_decay": 0.5, "bn_images": 100, "sgld_steps": 2},
            "for 4 iterations. These are exponential moving averages of its weights, of decay 0.5. After training, "
            "BatchNorm's running averages were taken over 100 training images, and the chains moved by 2 steps.",
        ),
        (
            {"bn_images": 10_000, "sgld_steps": 0},
            "for 4 iterations. These are the weights of its last iteration. After training, BatchNorm's running "
            "averages were taken over 1,497 training images.",
        ),
        ({"bn_images": 0, "sgld_steps": 0}, "for 4 iterations. These are the weights of its last iteration."),
    ],
)
def test_the_card_of_an_import_says_what_its_weights_are(project, imported, weights, expected):
    imported("results/mjem/train/checkpoint.pt", weights)
    assert main(["export", "again"]) == 0
    head, text = card(Path("results/export/again"))
    assert f"trained on digits {expected}\n" in text
    assert head["license"] == "mit"


@pytest.mark.parametrize(
    ("choose", "after"),
    [
        (2, "epoch 2 of 3."),
        ("last", "epoch 3 of 3."),
        ("accuracy", "epoch 1 of 3, the best of those kept by accuracy on training images that were held out."),
    ],
)
def test_a_chosen_run_stays_chosen_when_it_is_exported_and_imported(project, imported, choose, after):
    snapshots = Path("results/mjem/train/snapshots")
    kept(snapshots)
    untouched = {"bn_images": 0, "sgld_steps": 0}
    imported(snapshots, {"choose": choose, **untouched}, CHOOSING)
    choice = load_checkpoint(AGAIN / "checkpoint.pt").choice
    assert main(["export", "again"]) == 0
    assert f"iterations. These are the weights after {after}\n" in card(Path("results/export/again"))[1]
    imported("results/export/again", untouched, CHOOSING)
    assert load_checkpoint(AGAIN / "checkpoint.pt").choice == choice
    assert choice["epoch"] == {"last": 3, "accuracy": 1}.get(choose, choose)
    assert main(["export", "again", "--licence", "mit", "--out", "second"]) == 0
    assert f"iterations. These are the weights after {after}\n" in card(Path("second"))[1]


def test_weights_of_an_unknown_training_are_exported_without_one(project, imported, digits):
    Path("theirs").mkdir()
    released(Path("theirs/epoch_0001.pt"))
    imported("theirs", {})
    assert main(["export", "again", "--licence", "cc0-1.0"]) == 0
    folder = Path("results/export/again")
    head, text = card(folder)
    assert head["license"] == "cc0-1.0"
    assert "trained on digits elsewhere, by settings that are not known here.\n" in text
    assert "`config.json` what rebuilds the network and how `run.sample` moves chains, but not the settings" in text
    config = json.loads((folder / CONFIG).read_text())
    assert "iterations" not in config
    assert set(config["train"]) == {
        *("depth", "width", "head", "norm", "dropout", "pyx_weight", "init", "step_size", "noise_std")
    }
    again = mebm.load(folder, "cpu")
    assert torch.equal(again.logits(digits.images[:9]), mebm.load("results/mjem", "cpu").logits(digits.images[:9]))
    # its own training is as unknown to another suite, whatever that one would train by
    imported(folder, {"bn_images": 100, "sgld_steps": 0}, {**TRAIN, "lr": 0.5})
    assert load_checkpoint(AGAIN / "checkpoint.pt").train["lr"] == 0.5
    assert main(["export", "again", "--licence", "cc0-1.0", "--out", "second"]) == 0
    assert (
        "that are not known here. After training, BatchNorm's running averages were taken over 100 training images.\n"
        in card(Path("second"))[1]
    )


def test_an_unknown_training_has_to_fit_the_network_all_the_same(project, imported, capsys):
    released(Path("released.pt"))
    imported("released.pt", {})
    assert main(["export", "again", "--licence", "cc0-1.0"]) == 0
    with pytest.raises(AssertionError):
        imported("results/export/again", {}, {**TRAIN, "step_size": 0.5})
    assert "again: was exported with train.step_size 1.0, but here it is 0.5; give" in capsys.readouterr().err


def test_weights_from_elsewhere_need_a_licence(project, imported, capsys):
    shutil.copy("results/mjem/train/checkpoint.pt", "theirs.pt")
    imported("theirs.pt", {"bn_images": 0, "sgld_steps": 0})
    assert main(["export", "again"]) == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert "--licence: is missing, expected the one that the weights of 'theirs.pt' came with, since this" in line
    assert not Path("results/export").exists()
    assert main(["export", "again", "--licence", "cc-by-4.0"]) == 0
    head, text = card(Path("results/export/again"))
    assert head["license"] == "cc-by-4.0"
    assert "for 4 iterations. They were imported from elsewhere, and which weights of their training they are" in text


@pytest.mark.parametrize("name", ["", WEIGHTS])
def test_an_imported_run_is_made_from_it(project, digits, name):
    assert main(["export", "mjem"]) == 0
    path = Path("results/export/mjem") / name
    Path("params.yaml").write_text(params(again=(path, {"bn_images": 0, "sgld_steps": 0})))
    files = {"checkpoint": path, "train": "data/digits/train.npz", "features": "data/digits/features.pt", "out": "out"}
    words = [word for key, value in files.items() for word in (f"--{key}", str(value))]
    assert import_checkpoint.main(["--run", "again", *words]) == 0
    ours = mebm.load("results/mjem", "cpu")
    assert torch.equal(mebm.load("out", "cpu").energies(digits.images[:9]), ours.energies(digits.images[:9]))
    assert torch.equal(mebm.load("out", "cpu").buffer.images, ours.buffer.images)


def test_files_beside_exported_weights_decide_an_import_as_well(project):
    """The command names one file, so its record holds the hashes of the two that are read with it."""
    from mebm.engine import records

    assert main(["export", "mjem"]) == 0
    folder = Path("results/export/mjem")
    Path("params.yaml").write_text(params(again=(folder / WEIGHTS, {}), plain=("a.pt", {}), whole=(folder, {})))
    loaded = load_params("params.yaml")
    inputs = {name: records.record(loaded, "import_checkpoint", name).get("inputs", {}) for name in loaded.imported}
    assert set(inputs["again"]) == {str(folder / CONFIG), str(folder / CHAINS)}
    assert inputs["plain"] == inputs["whole"] == {}
    records._signature.cache_clear()
    (folder / CONFIG).write_text("{}")
    assert records.record(loaded, "import_checkpoint", "again")["inputs"] != inputs["again"]


def test_what_a_network_remembers_besides_tensors_comes_back(tmp_path):
    from mebm.method.energy import build_model

    architecture = {"depth": 10, "width": 1, "head": "energy", "norm": "actnorm", "dropout": 0.0}
    model, x = build_model((1, 8, 8), 10, **architecture).train(), torch.randn(16, 1, 8, 8).clamp(-1, 1)
    model.energy(x)
    write_exported(tmp_path / "a", Checkpoint(model.eval(), x, architecture, (1, 8, 8), 10, 1))
    assert torch.equal(mebm.load(tmp_path / "a", "cpu").model.train().energy(x), model.train().energy(x))


def header(path: Path, change) -> None:
    """Change the JSON at the beginning of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    text = json.dumps(change(json.loads(content[8 : 8 + length]))).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


def renamed(record: dict) -> dict:
    return {f"{name}x" if name != "__metadata__" else name: value for name, value in record.items()}


def in_eight_bits(folder: Path) -> None:
    """Chains in a format that torch does not compute with, and a config.json that says so."""
    save_file({BUFFER: torch.zeros(40, 1, 8, 8).to(torch.float8_e4m3fn)}, folder / CHAINS)
    hashes = {name: sha256(folder / name) for name in (WEIGHTS, CHAINS)}
    settings(sha256=hashes)(folder)


def settings(**changes):
    return lambda folder: write_json(folder / CONFIG, json.loads((folder / CONFIG).read_text()) | changes)


DAMAGES = {
    "cut": (
        lambda folder: cut(folder / WEIGHTS),
        f"{WEIGHTS}: is damaged, or not a file of the format safetensors; get",
    ),
    "empty": (lambda folder: (folder / CHAINS).write_bytes(b""), f"{CHAINS}: is damaged, or not a file of the format"),
    "a pickle": (
        lambda folder: torch.save({}, folder / WEIGHTS),
        f"{WEIGHTS}: is damaged, or not a file of the format",
    ),
    "of another run": (
        lambda folder: header(folder / WEIGHTS, renamed),
        f"{WEIGHTS}: is not the file that {CONFIG} beside it was written with; get the whole folder again",
    ),
    "no config": (lambda folder: (folder / CONFIG).unlink(), f"{CONFIG}: no such file, and it is needed to rebuild"),
    "no chains": (
        lambda folder: (folder / CHAINS).unlink(),
        f"{CHAINS}: no such file, and it is needed beside {CONFIG}",
    ),
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), f"{WEIGHTS}: no such file, and it is needed beside"),
    "another model": (settings(model_type="bert"), f"{CONFIG}: model_type is str 'bert': input should be 'mebm'"),
    "a later version": (settings(version=9), "has format version 9, expected 3"),
    "other classes": (settings(n_classes=3), "its weights do not fit its own settings"),
    "chains in 8 bits": (in_eight_bits, "the replay buffer does not hold images in [-1, 1]; give another file"),
    "an odd choice": (
        settings(choice={"by": "luck", "epoch": 1, "epochs": 3}),
        f"{CONFIG}: choice.by is str 'luck': input should be 'last', 'epoch', 'accuracy' or 'quality'",
    ),
    "no JSON": (lambda folder: (folder / CONFIG).write_text("{"), f"{CONFIG}: is not valid JSON"),
    "odd shape": (settings(shape=[1, 8]), "lacks the key shape.2; give another file"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_said_in_a_line(made, tmp_path, monkeypatch, damage):
    monkeypatch.chdir(made)
    folder = tmp_path / "export"
    assert main(["export", "mjem", "--out", str(folder)]) == 0
    change, message = DAMAGES[damage]
    change(folder)
    for path in (folder, folder / WEIGHTS):
        with pytest.raises(MebmError) as error:
            mebm.load(path, "cpu")
        assert message in str(error.value)
        assert "\n" not in str(error.value)


def test_another_safetensors_file_is_not_taken_for_one(tmp_path):
    (tmp_path / "other.safetensors").write_bytes(b"")
    with pytest.raises(MebmError, match=r"other\.safetensors: is not named model\.safetensors; give the folder"):
        read_exported(tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("argv", "change", "message"),
    [
        (["no"], None, "params.yaml: no run 'no' in the suite 'smoke'; known: mebm, mjem"),
        (["mebm"], None, "results/mebm/train/checkpoint.pt: no such file; run the stage that makes it"),
        (["mjem"], "quality.json", "results/mjem/quality.json: no such file; run the stage that makes it"),
        (["mjem"], "sample/grid.png", "results/mjem/sample/grid.png: no such file; run the stage that makes it"),
        (["mjem", "--ema-decay", "0.9"], None, "has no averaged weights of decay 0.9, but 0.5; set train.ema_decays"),
        (["mjem", "--ema-decay", "2"], None, "--ema-decay: is 2, expected a number between 0 and 1"),
        (["mjem", "--licence", "a: b"], None, "--licence: is 'a: b', expected an identifier such as mit"),
    ],
)
def test_what_cannot_be_exported_leaves_nothing(project, capsys, argv, change, message):
    if change:
        (project / "results" / "mjem" / change).unlink()
    assert main(["export", *argv]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (project / "results" / "export").exists()


def test_numbers_of_another_checkpoint_are_refused(project, capsys):
    write_json(project / "results" / "mjem" / "accuracy.json", {"accuracy": 0.5, "loss": 1.0, "n_images": 3})
    assert main(["export", "mjem"]) == 1
    assert "accuracy.json: was measured with another checkpoint than the run has now" in capsys.readouterr().err


def test_a_card_that_was_edited_is_not_overwritten(project, capsys):
    assert main(["export", "mjem"]) == 0
    (project / "results/export/mjem/README.md").write_text("mine")
    assert main(["export", "mjem"]) == 1
    assert "README.md: already exists, and `export mjem` did not make it as it is now" in capsys.readouterr().err
    assert (project / "results/export/mjem/README.md").read_text() == "mine"


@pytest.mark.slow
@pytest.mark.more
def test_both_engines_import_an_exported_folder(project, tmp_path):
    """DVC takes the folder as an input; the run ends with the weights that were exported."""
    assert main(["export", "mjem", "--out", str(tmp_path / "export")]) == 0
    content = yaml.safe_load(params(again=("data/downloads/export", {"bn_images": 0, "sgld_steps": 0})))
    copied = copy_project(tmp_path / "copied", content)
    shutil.copytree(tmp_path / "export", copied / "data" / "downloads" / "export")
    run(copied, "snakemake", "results/again/train/checkpoint.pt")
    ours = load_checkpoint(copied / "results/again/train/checkpoint.pt").model.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in mebm.load("results/mjem").model.state_dict().items())
    assert "didn't change" in run(copied, "dvc", "repro", "import_checkpoint@again")
