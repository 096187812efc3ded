"""Each command line: exit status, files written, one clear line on bad input, nothing half written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import smoke
import torch
import yaml

from mebm.__main__ import main
from mebm.data.archives import save_images
from mebm.data.images import load_images
from mebm.engine import failures
from mebm.engine.records import write
from mebm.files import sha256, write_text
from mebm.measure.features import load_network
from mebm.method.energy import ARCHITECTURE, build_model
from mebm.settings.suite import load_params
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stages import (
    accuracy,
    baseline,
    calibration,
    curves,
    dataset,
    embedding,
    features,
    gaussian,
    generate,
    inventory,
    metrics,
    neighbours,
    ood,
    params,
    pictures,
    quality,
    reference,
    robustness,
    sample,
    start,
    summary,
    tables,
    train,
)

ROOT = smoke.ROOT


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A folder in which every stage has run once on the smoke parameters, through the stages' own main functions."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
    data, run = folder / "data", folder / "results" / "mjem"
    common = ["--params", str(folder / "params.yaml"), "--logs", str(folder / "logs")]
    common += ["--state", str(folder / "state")]  # another worker trains the same run
    archives = {name: str(data / f"{name}.npz") for name in ("train", "test", "gaussian", "reference")}
    net = ["--features", str(data / "features.pt")]
    checkpoint = ["--checkpoint", str(run / "train" / "checkpoint.pt")]
    of_set, of_run = ["--dataset", "digits", *common], ["--run", "mjem", *common]
    from_train, to = ["--train", archives["train"]], lambda path: ["--out", str(path)]
    held_out = ["--test", archives["test"]]
    steps = [
        (dataset, [*of_set, *to(data)]),
        (gaussian, [*of_set, *from_train, *to(archives["gaussian"])]),
        (
            features,
            [
                *(*of_set, *from_train, "--test", archives["test"]),
                *("--metrics", str(data / "features.json"), *to(data / "features.pt")),
            ],
        ),
        (reference, [*of_set, *from_train, *net, *to(archives["reference"])]),
        (
            baseline,
            [
                *(*of_set, "--test", archives["test"], "--gaussian", archives["gaussian"], *net),
                *("--reference", archives["reference"], *to(folder / "results" / "baseline" / "digits")),
            ],
        ),
        (train, [*of_run, *from_train, *held_out, "--gaussian", archives["gaussian"], *to(run / "train")]),
        (sample, [*of_run, *checkpoint, *to(run / "sample")]),
        (
            quality,
            [
                *(*of_run, "--images", str(run / "sample" / "images"), *net),
                *("--reference", archives["reference"], *to(run / "quality.json")),
                *("--manifest", str(run / "sample" / "manifest.json")),
            ],
        ),
        (accuracy, [*of_run, *checkpoint, "--test", archives["test"], *to(run / "accuracy.json")]),
        (
            curves,
            [
                *(*of_run, "--log", str(run / "train" / "log.csv"), "--epochs", str(run / "train" / "epochs.csv")),
                *("--snapshots", str(run / "train" / "snapshots"), *net, "--reference", archives["reference"]),
                *to(run / "analyses" / "curves"),
            ],
        ),
    ]
    for stage, argv in steps:
        assert stage.main(argv) == 0, stage.__name__
    return folder


@pytest.fixture
def run_stage(made, capsys):
    """Run a stage's main with --params and --logs filled in; returns the status and what went to stderr."""

    def run(stage, *argv: str | Path) -> tuple[int, str]:
        capsys.readouterr()
        arguments = [*map(str, argv), "--params", str(made / "params.yaml"), "--logs", str(made / "logs")]
        return stage.main(arguments), capsys.readouterr().err

    return run


def error_line(err: str) -> str:
    """The one line that says what was wrong; anything else on stderr is the log."""
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


def test_records_hold_values_and_conditions(made):
    record = json.loads((made / "results" / "mjem" / "quality.json").read_text())["full"]
    assert record["fcd"] > 0
    assert record["classifier_score"] >= 1
    assert record["n_images"] == 100
    assert record["keep_ratio"] is None
    assert record["protocol"] == "full"
    assert {"checkpoint_sha256", "images_sha256", "features_sha256", "reference_sha256", "seed", "versions"} <= set(
        record
    )
    assert abs(sum(record["class_shares"]) - 1) < 1e-4
    assert abs(sum(record["class_shares_of_model"]) - 1) < 1e-4
    baselines = {
        name: json.loads((made / "results" / "baseline" / "digits" / f"{name}.json").read_text())
        for name in ("initial", "heldout")
    }
    for found in (record, *baselines.values()):
        assert (found["neighbours"], found["n_features"], found["precision_status"]) == (3, 100, "ok")
    assert baselines["heldout"]["precision"] > 0.5 < baselines["heldout"]["recall"]
    assert 0 <= record["precision"] <= 1
    assert 0 <= record["recall"] <= 1
    accuracy_record = json.loads((made / "results" / "mjem" / "accuracy.json").read_text())
    assert 0 <= accuracy_record["accuracy"] <= 1
    assert accuracy_record["n_images"] == 300
    assert accuracy_record["bn_stats"] == "running"


def test_the_reference_is_that_of_all_training_images(made):
    network = load_network(made / "data" / "features.pt")
    with torch.no_grad():
        rows = network(torch.from_numpy(np.load(made / "data" / "train.npz")["images"]))[0].double().numpy()
    with np.load(made / "data" / "reference.npz") as reference:
        assert reference["count"] == len(rows) == 1497
        assert np.allclose(reference["mu"], rows.mean(0), atol=1e-5)
        assert np.allclose(reference["sigma"], np.cov(rows, rowvar=False), atol=1e-5)


def test_pictures_and_log_are_written(made):
    run = made / "results" / "mjem"
    for picture in (run / "sample" / "grid.png", run / "analyses" / "curves" / "grids" / "epoch_0001.png"):
        assert picture.read_bytes()[:4] == b"\x89PNG", picture
    assert "train mjem: done" in (made / "logs" / "train.mjem.log").read_text()
    assert (made / "logs" / "train.mjem.png").read_bytes()[:4] == b"\x89PNG"  # for those who watch
    header = (run / "train" / "log.csv").read_text().splitlines()[0]
    assert header.startswith("iteration,epoch,lr,energy_pos,energy_neg,energy_gap")


def test_what_training_took_stands_in_a_file_of_its_own(made):
    spent = json.loads((made / "results" / "mjem" / "train" / "cost.json").read_text())
    assert spent["iterations"] == 11  # 1,497 images in batches of 128, one epoch
    assert spent["flops"] > 1e9
    assert 0 < spent["hours"] < 1


def test_training_twice_gives_equal_bytes(made, run_stage, tmp_path):
    status, _ = run_stage(
        train,
        *("--run", "mjem", "--train", made / "data" / "train.npz"),
        *("--test", made / "data" / "test.npz", "--gaussian", made / "data" / "gaussian.npz", "--out", tmp_path),
    )
    assert status == 0
    first = made / "results" / "mjem" / "train"
    for name in ("checkpoint.pt", "log.csv", "epochs.csv", "snapshots/epoch_0000.npz", "snapshots/epoch_0001.npz"):
        assert (tmp_path / name).read_bytes() == (first / name).read_bytes(), name


def test_missing_stage_input(run_stage, tmp_path):
    status, err = run_stage(
        gaussian, "--dataset", "digits", "--train", tmp_path / "no.npz", "--out", tmp_path / "g.npz"
    )
    assert status == 1
    assert "no.npz: no such file" in error_line(err)
    assert list(tmp_path.iterdir()) == []


def test_truncated_checkpoint(made, run_stage, tmp_path):
    whole = (made / "results" / "mjem" / "train" / "checkpoint.pt").read_bytes()
    cut = tmp_path / "cut.pt"
    cut.write_bytes(whole[: len(whole) // 2])
    status, err = run_stage(sample, "--run", "mjem", "--checkpoint", cut, "--out", tmp_path / "out")
    assert status == 1
    assert "cut.pt: is not a readable checkpoint" in error_line(err)
    assert not (tmp_path / "out").exists()


def test_checkpoint_that_is_a_pickle_is_not_executed(made, run_stage, tmp_path):
    class Bomb:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"format": Bomb()}, tmp_path / "bomb.pt")
    argv = ("--run", "mjem", "--checkpoint", tmp_path / "bomb.pt", "--out", tmp_path / "out")
    status, err = run_stage(sample, *argv)
    assert status == 1
    assert "bomb.pt" in error_line(err)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e38])
def test_weights_that_are_no_numbers_end_in_one_line(made, run_stage, tmp_path, value):
    """A run that diverged may be looked at, but no stage ends in a traceback."""
    checkpoint = torch.load(made / "results" / "mjem" / "train" / "checkpoint.pt", weights_only=True)
    for weights in checkpoint["model_state_dict"].values():
        if weights.is_floating_point():
            weights.fill_(value)
    torch.save(checkpoint, tmp_path / "nan.pt")
    data = made / "data"
    paths = {"checkpoint": tmp_path / "nan.pt", "gaussian": data / "gaussian.npz", "features": data / "features.pt"}
    paths |= {"train": data / "train.npz", "test": data / "test.npz", "reference": data / "reference.npz"}
    paths |= {"compared": tmp_path, "sets": "[]"}
    reads = {
        sample: (),
        accuracy: ("test",),
        generate: ("gaussian", "features", "reference"),
        pictures: (),
        neighbours: ("train", "features"),
        embedding: ("train", "gaussian"),
        ood: ("test", "compared", "sets"),
        calibration: ("test",),
        robustness: ("test",),
    }
    for stage, keys in reads.items():
        out = tmp_path / f"{stage.__name__}.json" if stage is accuracy else tmp_path / stage.__name__
        options = [word for key in ("checkpoint", *keys) for word in (f"--{key}", paths[key])]
        status, err = run_stage(stage, "--run", "mjem", *options, "--out", out)
        assert status == 0 or "finite" in error_line(err), (stage.__name__, err)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((20, 8, 8), np.uint8), "shape [20, 8, 8]"),
        (np.zeros((20, 1, 8, 6), np.uint8), "shape [20, 1, 8, 6]"),
        (np.full((20, 1, 8, 8), 3.0, np.float32), "in the range 3 to 3"),
        (np.full((20, 1, 8, 8), np.nan, np.float32), "with NaN"),
        (np.zeros((0, 1, 8, 8), np.uint8), "N > 0"),
    ],
)
def test_images_of_the_wrong_shape_range_or_value(run_stage, tmp_path, images, message):
    np.savez(tmp_path / "train.npz", images=images)
    out = tmp_path / "g.npz"
    status, err = run_stage(gaussian, "--dataset", "digits", "--train", tmp_path / "train.npz", "--out", out)
    assert status == 1
    assert message in error_line(err)
    assert not out.exists()


def test_images_of_another_size_than_the_network(made, run_stage, tmp_path):
    np.savez(tmp_path / "test.npz", images=np.zeros((20, 1, 16, 16), np.uint8), labels=np.zeros(20, np.int64))
    status, err = run_stage(
        accuracy,
        *("--run", "mjem", "--checkpoint", made / "results" / "mjem" / "train" / "checkpoint.pt"),
        *("--test", tmp_path / "test.npz", "--out", tmp_path / "accuracy.json"),
    )
    assert status == 1
    assert "1x16x16" in error_line(err)
    assert "1x8x8" in error_line(err)


def test_covariance_that_is_not_positive_definite(made, run_stage, tmp_path):
    arrays = dict(np.load(made / "data" / "gaussian.npz"))
    arrays["cov"] = -np.eye(64)
    np.savez(tmp_path / "gaussian.npz", **arrays)
    status, err = run_stage(
        train,
        *("--run", "mjem", "--train", made / "data" / "train.npz"),
        *("--test", made / "data" / "test.npz", "--gaussian", tmp_path / "gaussian.npz", "--out", tmp_path / "train"),
    )
    assert status == 1
    assert "gaussian.npz: the covariance plus the ridge 0.0001 is not positive definite" in error_line(err)
    assert not (tmp_path / "train").exists()


def test_nan_in_the_gaussian(made, run_stage, tmp_path):
    arrays = dict(np.load(made / "data" / "gaussian.npz"))
    arrays["mean"] = np.full(64, np.nan)
    np.savez(tmp_path / "gaussian.npz", **arrays)
    status, err = run_stage(
        train,
        *("--run", "mjem", "--train", made / "data" / "train.npz"),
        *("--test", made / "data" / "test.npz", "--gaussian", tmp_path / "gaussian.npz", "--out", tmp_path / "train"),
    )
    assert status == 1
    assert "not finite" in error_line(err)


def test_a_reference_keeps_features_of_chosen_training_images(made, smoke_params, tmp_path):
    network, train_images = load_network(made / "data" / "features.pt"), load_images(made / "data" / "train.npz").images
    with np.load(made / "data" / "reference.npz") as found:
        every = found["features"]
    assert (every.dtype, every.shape) == (np.float32, (1497, network.n_features))
    smoke_params["reference"]["n_features"] = 40
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    argv = ["--dataset", "digits", "--params", tmp_path / "params.yaml", "--logs", tmp_path / "logs"]
    argv += ["--train", made / "data" / "train.npz", "--features", made / "data" / "features.pt"]
    assert reference.main([str(word) for word in (*argv, "--out", tmp_path / "reference.npz")]) == 0
    with np.load(tmp_path / "reference.npz") as found:
        assert np.array_equal(found["features"], every[:40])  # the first ones are the same for any number
    with torch.no_grad():
        near = torch.cdist(torch.from_numpy(every[:40]), network(train_images)[0]).min(dim=1)
    assert float(near.values.max()) < 1e-3
    assert len(near.indices.unique()) == 40
    assert near.indices.tolist() != sorted(near.indices.tolist())


def test_a_covariance_of_the_reference_that_is_none(made, run_stage, tmp_path):
    arrays = dict(np.load(made / "data" / "reference.npz"))
    np.savez(tmp_path / "reference.npz", **{**arrays, "sigma": -arrays["sigma"]})
    results = made / "results" / "mjem"
    status, err = run_stage(
        quality,
        *("--run", "mjem", "--images", results / "sample" / "images", "--features", made / "data" / "features.pt"),
        *("--manifest", results / "sample" / "manifest.json", "--reference", tmp_path / "reference.npz"),
        *("--out", tmp_path / "quality.json"),
    )
    assert status == 1
    assert "reference.npz: sigma is no covariance matrix: it has an eigenvalue of -" in error_line(err)
    assert not (tmp_path / "quality.json").exists()


def test_unknown_run_name(run_stage, tmp_path):
    status, err = run_stage(curves, "--run", "nobody", "--out", tmp_path / "curves")
    assert status == 2
    assert "no entry 'nobody' in trained" in error_line(err)
    assert "mebm, mjem" in error_line(err)


def test_unwritable_results_folder(made, run_stage, tmp_path):
    (tmp_path / "results").write_text("a file where a folder should be")
    status, err = run_stage(
        sample,
        *("--run", "mjem", "--checkpoint", made / "results" / "mjem" / "train" / "checkpoint.pt"),
        *("--out", tmp_path / "results" / "sample"),
    )
    assert status == 1
    assert error_line(err).endswith(f"{tmp_path / 'results'}: is a file, expected a folder; give another as --out")


@pytest.mark.parametrize(("run", "by"), [("mjem", "class head"), ("mebm", "untrained class head")])
def test_protocols(made, smoke_params, tmp_path, capsys, run, by):
    """One run has them all; nothing but the release's select by class, and the record says by what."""
    protocols = ["full", "release_0.5", "release_10000"]
    smoke_params["sample"]["protocols"] = protocols
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    common = ["--run", run, "--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path)]
    data, out = made / "data", tmp_path / "train"
    argv = ["--train", str(data / "train.npz"), "--gaussian", str(data / "gaussian.npz"), "--out", str(out)]
    argv += ["--test", str(data / "test.npz")]
    assert train.main([*common, *argv]) == 0
    argv = ["--checkpoint", str(out / "checkpoint.pt"), "--out", str(tmp_path / "sample")]
    assert sample.main([*common, *argv]) == 0
    manifest = json.loads((tmp_path / "sample" / "manifest.json").read_text())["protocols"]
    assert list(manifest) == protocols
    assert manifest["full"]["n_images"] == 100
    conditions = ("selection", "order", "rounding", "keep_ratio", "n_considered")
    assert [manifest["full"][key] for key in conditions] == [None, "of the buffer", "nearest", None, 100]
    assert 30 < manifest["release_0.5"]["n_images"] <= 50
    assert manifest["release_10000"]["n_images"] == 100
    for protocol, ratio in (("release_0.5", 0.5), ("release_10000", 10_000)):
        assert [manifest[protocol][key] for key in conditions] == [
            *(f"by confidence of the {by}", "class by class, most confident first", "truncate", ratio, 100)
        ]
    # the same chains, in another order, and rounded in another way
    whole, ordered = (
        load_images(tmp_path / "sample" / "images" / f"{protocol}.npz").images for protocol in protocols[::2]
    )
    assert not torch.equal(whole, ordered)
    assert 0 < (whole.double().mean() - ordered.double().mean()) < 1
    chains = load_checkpoint(out / "checkpoint.pt").replay_buffer
    assert torch.equal(whole, ((chains + 1) * 127.5).round().byte())
    truncated = {image.tobytes() for image in ((chains + 1) * 127.5).trunc().byte().numpy()}
    assert {image.tobytes() for image in ordered.numpy()} == truncated
    argv = ["--images", str(tmp_path / "sample" / "images"), "--manifest", str(tmp_path / "sample" / "manifest.json")]
    argv += ["--features", str(data / "features.pt"), "--reference", str(data / "reference.npz")]
    assert quality.main([*common, *argv, "--out", str(tmp_path / "quality.json")]) == 0
    records = json.loads((tmp_path / "quality.json").read_text())
    assert {record["n_images"] for record in records.values()} == {
        manifest[protocol]["n_images"] for protocol in protocols
    }
    assert {record["reference_split"] for record in records.values()} == {"train"}
    # two chains in all, but none in a class of less than 50
    smoke_params["sample"]["protocols"] = ["release_0.02"]
    smoke_params["quality"]["score_splits"] = 2
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    capsys.readouterr()
    argv = [
        "--checkpoint",
        str(out / "checkpoint.pt"),
        "--out",
        str(tmp_path / "none"),
    ]
    assert sample.main([*common, *argv]) == 2
    message = rf"sample.protocols of {run} has release_0.02, which keeps [01] images, expected 2 at least"
    assert re.search(message, error_line(capsys.readouterr().err))


def test_pictures_without_labels_are_not_selected_by_class(smoke_params, tmp_path, capsys):
    """Whether a folder of pictures has classes is only known when it is read."""
    pictures_of = {"source": "image_folder", "path": "pictures", "image_size": 8}
    inception = {"network": "inception"}
    smoke_params["suite"]["datasets"]["digits"] = {"dataset": pictures_of, "features": inception}
    smoke_params["sample"]["protocols"] = ["full", "release_0.9"]
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    settings = smoke.section("train")
    model = build_model((3, 8, 8), 0, **{key: getattr(settings, key) for key in ARCHITECTURE})
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, Checkpoint(model, torch.zeros(20, 3, 8, 8), settings.model_dump(), (3, 8, 8), 0, 1))
    argv = ["--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path / "logs"), "--checkpoint", str(path)]
    assert sample.main(["--run", "mebm", *argv, "--out", str(tmp_path / "sample")]) == 2
    message = (
        "sample.protocols of mebm has release_0.9, which selects by predicted class, but the data set has no labels"
    )
    assert message in error_line(capsys.readouterr().err)
    assert not (tmp_path / "sample").exists()


def test_training_that_takes_too_long_on_a_cpu_is_refused(made, smoke_params, tmp_path, capsys):
    smoke_params["compute"] |= {"device": "cpu", "cpu_hours": 1e-6}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    argv = ["--run", "mebm", "--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path)]
    argv += ["--train", str(made / "data" / "train.npz"), "--gaussian", str(made / "data" / "gaussian.npz")]
    argv += ["--test", str(made / "data" / "test.npz")]
    assert train.main([*argv, "--out", str(tmp_path / "out")]) == 2
    assert "more than compute.cpu_hours (1e-06)" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()
    assert main(["cost", "--params", str(tmp_path / "params.yaml"), "--data", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "mebm, mjem: more than compute.cpu_hours" in error_line(shown)
    assert "2 runs, about" in shown
    smoke_params["runs"] = {"mjem": {"compute": {"cpu_hours": None}}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    assert main(["cost", "--params", str(tmp_path / "params.yaml"), "--data", str(tmp_path)]) == 1
    assert "mebm: more than compute.cpu_hours (1e-06) on this CPU" in error_line(capsys.readouterr().err)


def test_images_and_manifest_must_belong_together(made, run_stage, tmp_path):
    np.savez(tmp_path / "full.npz", images=np.zeros((20, 1, 8, 8), np.uint8))
    status, err = run_stage(
        quality,
        *("--run", "mjem", "--images", tmp_path),
        *("--manifest", made / "results" / "mjem" / "sample" / "manifest.json"),
        *("--features", made / "data" / "features.pt", "--reference", made / "data" / "reference.npz"),
        *("--out", tmp_path / "quality.json"),
    )
    assert status == 1
    assert "does not describe" in error_line(err)
    assert not (tmp_path / "quality.json").exists()


def test_divergence_is_a_failure_and_leaves_no_checkpoint(made, smoke_params, tmp_path, capsys):
    smoke_params["train"] |= {"lr": 1e6, "warmup_iters": 0, "norm": "none"}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    data = made / "data"
    argv = ["--run", "mebm", "--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path)]
    argv += ["--train", str(data / "train.npz"), "--gaussian", str(data / "gaussian.npz"), "--out", str(tmp_path / "o")]
    argv += ["--test", str(data / "test.npz")]
    assert train.main(argv) == 1
    assert "training diverged in iteration" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "o" / "checkpoint.pt").exists()
    assert not (tmp_path / "o" / "log.csv").exists()
    assert (tmp_path / "diverged.mebm.png").read_bytes()[:4] == b"\x89PNG"


def test_a_job_that_fails_notes_why_and_drops_the_note_when_it_starts_again(
    made, smoke_params, tmp_path, monkeypatch, capsys
):
    """A command by hand leaves the notes alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    write(load_params("params.yaml"), "results/params")
    argv = ["--run", "mjem", "--images", "none", "--manifest", "none.json", "--out", "results/mjem/quality.json"]
    argv += ["--features", str(made / "data/features.pt"), "--reference", str(made / "data/reference.npz")]
    assert quality.main(argv) == 1
    assert failures.reason(("quality",), "mjem") == ""
    write(load_params("params.yaml"), "results/params")
    monkeypatch.setenv("DVC_STAGE", "quality@mjem")
    assert quality.main(argv) == 1
    said = error_line(capsys.readouterr().err.splitlines()[-1]).removeprefix("error: ")
    assert failures.reason(("train", "quality"), "mjem") == f"quality failed: {said}"
    assert failures.reason(("train",), "mjem") == failures.reason(("quality",), "mebm") == ""
    monkeypatch.setattr(quality, "work", lambda *_: None)
    assert quality.main(argv) == 0
    assert failures.reason(("train", "quality"), "mjem") == ""


def test_a_damaged_note_of_a_failure_is_none(tmp_path):
    failures.note("train", "mjem", "out of memory", tmp_path)
    (path,) = tmp_path.iterdir()
    assert failures.reason(("train", "sample"), "mjem", tmp_path) == "train failed: out of memory"
    for content in ("", "[]", '{"error": 1}', "{"):
        path.write_text(content)
        assert failures.reason(("train", "sample"), "mjem", tmp_path) == ""


def test_an_inventory_names_every_file_of_a_run_once(made, run_stage, tmp_path):
    folder = tmp_path / "mjem"
    for name, content in (("train/log.csv", "a"), ("quality.json", "b"), ("sample/.mebm.sample.mjem", "c")):
        write_text(folder / name, content)
    argv = ("--run", "mjem", "--folder", folder, "--out", tmp_path / "inventory.json")
    assert run_stage(inventory, *argv)[0] == 0
    found = json.loads((tmp_path / "inventory.json").read_text())
    assert found == {name: sha256(folder / name) for name in ("quality.json", "train/log.csv")}
    status, err = run_stage(inventory, "--run", "mebm", "--folder", tmp_path / "no", "--out", tmp_path / "no.json")
    assert status == 1
    assert "no: no such folder" in error_line(err)


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("train", "n_stepz", 5, "train.n_stepz: unknown key"),
        ("train", "lr", "fast", "train.lr: is 'fast'"),
        ("train", "reinit_freq", 1.5, "train.reinit_freq: is 1.5"),
        ("compute", "device", "tpu", "compute.device: is 'tpu'"),
    ],
)
def test_a_bad_parameter_stops_every_command_line(smoke_params, tmp_path, section, key, value, message):
    smoke_params[section][key] = value
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    commands = [
        ["-m", "stages.params", "--out", "resolved"],
        ["-m", "stages.dataset", "--dataset", "digits", "--out", "data"],
    ]
    for command in commands:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert message in error_line(done.stderr)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml"]


def test_unknown_flag_is_refused(capsys):
    with pytest.raises(SystemExit) as stop:
        train.main(["--run", "mjem", "--train", "a", "--gaussian", "b", "--out", "c", "--trian", "x"])
    assert stop.value.code == 2
    assert "unrecognized arguments: --trian x" in capsys.readouterr().err


def test_summary_tables_and_show(made, run_stage, capsys):
    results = made / "results"
    for name in ("mjem", "mebm"):  # the same records stand in for both runs: only their form matters here
        status, _ = run_stage(
            summary,
            *("--run", name, "--quality", results / "mjem" / "quality.json"),
            *("--accuracy", results / "mjem" / "accuracy.json", "--cost", results / "mjem" / "train" / "cost.json"),
            *("--out", results / "summary" / f"{name}.json"),
        )
        assert status == 0
    status, _ = run_stage(
        tables,
        *("--table", "demo", "--summary", results / "summary"),
        *("--baseline", results / "baseline", "--out", results / "tables"),
    )
    assert status == 0
    argv = ("--suite", "smoke", "--baseline", results / "baseline", "--out", results / "tables")
    assert run_stage(start, *argv)[0] == 0
    assert "| digits | initial distribution | fcd ↓ |" in (results / "tables" / "start_smoke.md").read_text()
    markdown = (results / "tables" / "demo.md").read_text()
    assert markdown.count("\n| digits |") == 4
    assert "neither FID nor Inception Score" in markdown
    accuracy_of_classifier = json.loads((made / "data" / "features.json").read_text())["accuracy"]
    assert f"Accuracy of the feature classifier on held-out images: digits, {100 * accuracy_of_classifier:.1f} %." in (
        markdown
    )
    assert ("Warning for digits: the feature classifier is right on" in markdown) == (accuracy_of_classifier < 0.9)
    assert "Reference of distances: digits, the 1497 images of its train split." in markdown
    assert "M-JEM" in (results / "tables" / "demo.csv").read_text()
    assert r"\toprule" in (results / "tables" / "demo.tex").read_text()
    assert main(["show", "--params", str(made / "params.yaml"), "--results", str(results)]) == 0
    shown = capsys.readouterr().out
    assert "M-EBM" in shown
    listed = [Path(line.split("  ")[-1].strip()) for line in shown[shown.index("\ntables, ") :].splitlines() if line]
    assert all(path.exists() for path in listed)
    assert {path.name for path in listed} == {
        "demo.md",
        "start_smoke.md",
        "grid.png",
        "figures",
        "initial.png",
        "heldout.png",
    }
    page = results / "smoke" / "report.html"
    page.parent.mkdir()
    page.touch()
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "mebm", "show", "--params", made / "params.yaml", "--results", results]
    done = subprocess.run(command, env=ascii_only, cwd=made, capture_output=True, text=True, check=True)
    assert "| fcd v | classifier score ^ |" in done.stdout
    assert f"  {page}\n" in done.stdout


def test_resolved_parameters(made, tmp_path):
    assert params.main(["--params", str(made / "params.yaml"), "--out", str(tmp_path)]) == 0
    written = {path.name for path in tmp_path.iterdir()}
    expected = {f"{stage}.{name}.yaml" for stage, name in load_params(made / "params.yaml").jobs()}
    assert written == expected | {"all.yaml"}
    resolved = yaml.safe_load((tmp_path / "train.mjem.yaml").read_text())
    assert resolved["train"]["pyx_weight"] == 1.0


def test_training_again_goes_on_and_restart_starts_over(made, smoke_params, tmp_path, capsys):
    smoke_params["compute"]["save_every"] = 4
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    argv = ["--run", "mebm", "--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path / "logs")]
    argv += ["--train", str(made / "data" / "train.npz"), "--gaussian", str(made / "data" / "gaussian.npz")]
    argv += ["--test", str(made / "data" / "test.npz")]
    argv += ["--state", str(tmp_path / "state")]
    results = []
    for name, more in (("one", []), ("two", []), ("three", ["--restart"])):
        assert train.main([*argv, "--out", str(tmp_path / name), *more]) == 0
        text = capsys.readouterr().err
        assert ("goes on from iteration 8 of 11" in text) == (name == "two")
        results.append((tmp_path / name / "checkpoint.pt").read_bytes())
    assert results[0] == results[1] == results[2]
    assert (tmp_path / "logs" / "train.mebm.csv").read_text() == (tmp_path / "one" / "log.csv").read_text()


def test_held_out_labels_that_do_not_fit_are_told_before_training(made, run_stage, tmp_path):
    arrays = dict(np.load(made / "data" / "test.npz"))
    for name, labels in (("other", arrays["labels"] + 5), ("none", None)):
        save_images(tmp_path / f"{name}.npz", arrays["images"], labels)
        status, err = run_stage(
            train,
            *("--run", "mjem", "--train", made / "data" / "train.npz", "--test", tmp_path / f"{name}.npz"),
            *("--gaussian", made / "data" / "gaussian.npz", "--out", tmp_path / "train"),
        )
        assert status == 1
        assert "labels do not fit a classifier of 10 classes" in error_line(err)
        assert not (tmp_path / "train").exists()


def test_metrics_hold_a_column_a_run_and_number(tmp_path):
    """Counts and what does not exist are left out, as is a run without a summary."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
    summary_folder = tmp_path / "summary"
    summary_folder.mkdir()
    record = {"fcd": 0.5, "n_images": 100, "accuracy": None, "loss": None, "release_0.9": {"fcd": 0.6, "n_images": 90}}
    (summary_folder / "mebm.json").write_text(json.dumps(record))
    common = ["--suite", "smoke", "--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path / "logs")]
    out = tmp_path / "metrics.json"
    assert metrics.main([*common, "--summary", str(summary_folder), "--out", str(out)]) == 0
    assert json.loads(out.read_text()) == {"mebm": {"fcd": 0.5, "release_0.9": {"fcd": 0.6}}}


def test_a_job_does_not_start_with_other_values_than_dvc_records(made, smoke_params, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    write(load_params("params.yaml"), "results/params")
    smoke_params["tables"]["digits"] = 5
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    argv = ["--table", "demo", "--summary", "none", "--baseline", "none", "--out", "out"]
    monkeypatch.setenv("DVC_STAGE", "tables@demo")
    assert tables.main(argv) == 2
    assert "was changed after results/params/tables.demo.yaml" in error_line(capsys.readouterr().err)
    write(load_params("params.yaml"), "results/params")
    tables.main(argv)
    assert "was changed" not in capsys.readouterr().err


@pytest.mark.parametrize("linked", ["data", "data/digits"])
def test_a_job_whose_outputs_lie_behind_a_link_is_refused_before_it_works(
    smoke_params, tmp_path, monkeypatch, capsys, linked
):
    """DVC would refuse to record them, but only after the work."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
    write(load_params("params.yaml"), "results/params")
    (tmp_path / "disk").mkdir()
    (tmp_path / linked).parent.mkdir(exist_ok=True)
    (tmp_path / linked).symlink_to(tmp_path / "disk")
    argv = ["--dataset", "digits", "--out", "data/digits"]
    monkeypatch.setenv("DVC_STAGE", "dataset@digits")
    assert dataset.main(argv) == 1
    assert f"error: {linked}: is a link, and DVC records nothing" in error_line(capsys.readouterr().err)
    assert list((tmp_path / "disk").iterdir()) == []
    monkeypatch.delenv("DVC_STAGE")
    assert dataset.main(argv) == 0
