"""A run over time: what is read, the numbers at the end and at best, the animation, and TensorBoard's file."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import smoke
import torch
import yaml
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mebm.analyses.curves import (
    EVENTS,
    FRAMES,
    chain_grid,
    plot_quality,
    read_epochs,
    read_log,
    save_animation,
    snapshots,
    write_events,
)
from mebm.data.archives import save_images
from mebm.errors import DataError
from mebm.files import sha256, write_npz
from mebm.measure.features import extract, save_network
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.measure.quality import QualityMeter
from mebm.training.records import LOG_COLUMNS
from stages import curves

LOG = f"""{",".join(LOG_COLUMNS)}
4,0,0.1,-0.1,0.2,-0.3,0.05,2.3,2.0,0.5,1,-1,1,0.1,0.3
9,0,0.1,-0.2,0.1,-0.25,0.05,1.3,1.1,0.4,1,-1,1,0.2,0.3
19,1,0.1,-0.3,0.1,-0.2,0.05,0.3,0.2,0.3,1,,,,
"""
EPOCHS = "epoch,iteration,accuracy,loss\n1,10,0.5,1.5\n2,20,0.25,1.75\n"


def images(n: int, seed: int, channels: int = 1) -> torch.Tensor:
    return torch.randint(256, (n, channels, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.fixture
def run(tmp_path) -> Path:
    """A folder with all that a run leaves, a feature network and a reference."""
    (tmp_path / "log.csv").write_text(LOG)
    (tmp_path / "epochs.csv").write_text(EPOCHS)
    for epoch in range(3):
        save_images(tmp_path / "snapshots" / f"epoch_{epoch:04d}.npz", images(60, epoch).numpy())
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
    return tmp_path


def test_a_log_is_read_with_its_gaps(run):
    log = read_log(run / "log.csv")
    assert log["iteration"].tolist() == [4, 9, 19]
    assert log["x_neg_min"].isna().tolist() == [False, False, True]
    (run / "epochs.csv").write_text("epoch,iteration,accuracy,loss\n1,10,,\n")
    assert read_epochs(run / "epochs.csv")["accuracy"].isna().all()


@pytest.mark.parametrize("text", ["", "iteration,epoch\n", "iteration,loss\n0,x\n", LOG.splitlines()[0] + "\n"])
def test_what_is_no_log_is_named(run, text):
    (run / "log.csv").write_text(text)
    with pytest.raises(DataError, match=r"log\.csv: is not a training log .* train the run again"):
        read_log(run / "log.csv")
    with pytest.raises(DataError, match="no snapshots"):
        snapshots(run)


def test_about_a_hundred_small_chains_and_fewer_large_ones():
    many = images(150, 0)
    grid = chain_grid(many)
    assert grid.shape == (3, 364, 364)  # ten rows of 8 pixels and lines, enlarged four times
    assert grid[:, 4:36, 4:36].equal(many[0].repeat_interleave(4, 1).repeat_interleave(4, 2).expand(3, -1, -1))
    assert chain_grid(torch.zeros(100, 3, 128, 128, dtype=torch.uint8)).shape == (3, 646, 646)  # five by five
    assert chain_grid(images(3, 0)).shape == (3, 140, 392)  # one row of three


def test_the_animation_holds_its_pictures_loops_and_has_stable_bytes(tmp_path):
    grids = {epoch: chain_grid(images(100, epoch)) for epoch in (0, 5, 9)}
    for name in "ab":
        save_animation(tmp_path / f"{name}.webp", grids, tmp_path / f"{name}.png")
    assert (tmp_path / "a.webp").read_bytes() == (tmp_path / "b.webp").read_bytes()
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    film, durations = Image.open(tmp_path / "a.webp"), []
    assert (film.n_frames, film.info["loop"]) == (3, 0)
    for index, grid in enumerate(grids.values()):
        film.seek(index)
        film.load()
        durations.append(film.info["duration"])
        pixels = np.asarray(film.convert("RGB"))[: grid.shape[1]]
        assert np.array_equal(pixels, grid.permute(1, 2, 0).numpy())
    assert durations[0] == durations[1] < durations[2]
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), np.asarray(film.convert("RGB")))


def test_a_long_run_is_shown_in_a_bounded_number_of_frames(tmp_path):
    grids = {epoch: torch.full((3, 20, 120), epoch, dtype=torch.uint8) for epoch in range(0, 200, 2)}
    save_animation(tmp_path / "a.webp", grids, tmp_path / "a.png")
    film, first = Image.open(tmp_path / "a.webp"), []
    for index in range(film.n_frames):
        film.seek(index)
        first.append(film.convert("RGB").getpixel((0, 0))[0])
    assert len(first) == FRAMES
    assert (first[0], first[-1]) == (0, 198)
    assert first == sorted(set(first))


def test_tensorboard_reads_the_events_and_they_have_stable_bytes(tmp_path, run):
    log = read_log(run / "log.csv")
    table = pd.DataFrame({"epoch": [0, 1], "iteration": [0, 10], "accuracy": [np.nan, 0.5]})
    grids = {epoch: chain_grid(images(100, epoch)) for epoch in (0, 1)}
    for name in "ab":
        write_events(tmp_path / name, log, table, grids)
    assert (tmp_path / "a" / EVENTS).read_bytes() == (tmp_path / "b" / EVENTS).read_bytes()
    assert [path.name for path in (tmp_path / "a").iterdir()] == [EVENTS]
    events = EventAccumulator(str(tmp_path / "a"))
    events.Reload()
    gaps = events.Scalars("train/energy_gap")
    assert [(event.step, event.wall_time) for event in gaps] == [(4, 4.0), (9, 9.0), (19, 19.0)]
    assert [event.value for event in gaps] == pytest.approx([-0.3, -0.25, -0.2])
    assert [event.step for event in events.Scalars("train/x_neg_min")] == [4, 9]
    assert [(event.step, event.value) for event in events.Scalars("epoch/accuracy")] == [(10, 0.5)]
    assert [(event.step, event.width) for event in events.Images("chains")] == [(0, 364), (10, 364)]


def test_quality_shows_only_what_was_measured(tmp_path):
    table = pd.DataFrame({"epoch": [0, 1], "accuracy": np.nan, "distance": [9.0, 0.5], "score": [1.0, 2.0]})
    plot_quality(table, "fcd", "classifier score", tmp_path / "two.svg")
    text = (tmp_path / "two.svg").read_text()
    assert "held-out accuracy" not in text
    assert "fcd (low = good)" in text
    plot_quality(table.assign(distance=np.nan, score=np.nan), "fcd", "score", tmp_path / "none.svg")
    assert "could be measured" in (tmp_path / "none.svg").read_text()


@pytest.fixture
def stage(run, capsys):
    """Runs the stage on the run's folder; returns the exit status, the record and what went to stderr."""
    torch.manual_seed(0)
    network = FeatureClassifier(1, 10, 8)
    save_network(run / "features.pt", network)
    data = images(200, 9)
    mu, sigma, *_ = extract(network.eval(), data, 100)
    arrays = {"mu": mu.numpy(), "sigma": sigma.numpy(), "count": 200, "shape": np.array([1, 8, 8])}
    arrays |= {"preprocessing": "classifier", "features_sha256": sha256(run / "features.pt")}
    write_npz(run / "reference.npz", **arrays)

    def call(out: str = "out", name: str = "mjem") -> tuple[int, dict | None, str]:
        argv = ["--run", name, "--params", run / "params.yaml", "--logs", run / "logs", "--out", run / out]
        for option, path in (("log", "log.csv"), ("epochs", "epochs.csv"), ("snapshots", "snapshots")):
            argv += [f"--{option}", run / path]
        argv += ["--features", run / "features.pt", "--reference", run / "reference.npz"]
        status = curves.main([str(word) for word in argv])
        record = run / out / "metrics.json"
        return status, json.loads(record.read_text()) if record.is_file() else None, capsys.readouterr().err

    return call


def test_the_stage_measures_every_snapshot_and_names_the_best(run, stage):
    status, record, _ = stage()
    assert status == 0
    assert record["status"] == "ok"
    assert (record["iterations"], record["n_images"]) == (20, 60)
    meter = QualityMeter(run / "features.pt", run / "reference.npz", torch.device("cpu"), 100)
    found = [meter.measure(images(60, epoch), 10, 2020)["fcd"] for epoch in range(3)]
    table = pd.read_csv(run / "out" / "epochs.csv")
    assert list(table) == ["epoch", "iteration", "accuracy", "loss", "distance", "score"]
    assert table["distance"].tolist() == pytest.approx(found, rel=1e-5)
    assert table["iteration"].tolist() == [0, 10, 20]
    assert table["accuracy"].isna().tolist() == [True, False, False]
    assert record["best"]["fcd"] == {"value": min(found), "epoch": found.index(min(found))}
    assert record["best"]["accuracy"] == {"value": 0.5, "epoch": 1}
    assert record["best"]["test_loss"] == {"value": 1.5, "epoch": 1}
    assert (record["final"]["accuracy"], record["final"]["fcd"]) == (0.25, found[2])
    assert record["final"]["energy_gap"] == -0.2
    assert (run / "out" / "log.csv").read_text() == LOG
    assert "energy gap (data" in (run / "out" / "figures" / "curves.svg").read_text()


def test_twice_the_same_bytes(run, stage):
    stage("one")
    stage("two")
    made = [path.relative_to(run / "one") for path in sorted((run / "one").rglob("*")) if path.is_file()]
    assert len(made) == 12  # with the record of what is the stage's own
    assert [path.name for path in made if path.parent.name == "grids"] == [f"epoch_000{n}.png" for n in range(3)]
    for path in made:
        assert (run / "one" / path).read_bytes() == (run / "two" / path).read_bytes(), path


def test_few_images_keep_the_warning_of_the_meter(run, stage):
    for path in (run / "snapshots").iterdir():
        save_images(path, images(12, 0).numpy())
    assert "12 images do not fill 16 dimensions" in stage()[1]["warning"]
    for path in (run / "snapshots").iterdir():
        save_images(path, images(9, 0).numpy())  # fewer than parts of the score
    status, record, _ = stage()
    assert (status, record["status"]) == (0, "no quality: 9 images a snapshot; raise train.snapshot_images")
    assert record["best"]["fcd"] == {"value": None, "epoch": None}
    assert record["best"]["accuracy"]["value"] == 0.5


def test_without_a_classifier(run, stage):
    (run / "epochs.csv").write_text("epoch,iteration,accuracy,loss\n1,10,,\n2,20,,\n")
    status, record, _ = stage(name="mebm")
    assert (status, record["status"]) == (0, "ok")
    assert record["best"]["accuracy"] == {"value": None, "epoch": None}
    assert record["final"]["fcd"] > 0


def test_snapshots_of_another_run_are_refused(run, stage):
    save_images(run / "snapshots" / "epoch_0007.npz", images(60, 7).numpy())
    status, record, err = stage()
    assert (status, record) == (1, None)
    assert "lacks the epoch 7" in err
    assert not (run / "out").exists()


def test_another_file_is_said_to_be_no_log(run):
    for text, reason in (
        ("a: 1\nb: [2, 3]\nc, d, e\n", "it is not a table"),
        ("a,b\n1,2\n", "it lacks the column iteration"),
    ):
        (run / "other").write_text(text)
        with pytest.raises(DataError) as error:
            read_log(run / "other")
        advice = "give the one that training wrote, or train the run again"
        assert str(error.value) == f"{run / 'other'}: is not a training log ({reason}); {advice}"


def test_a_log_that_ends_in_nan_leaves_nothing(run, stage):
    log = pd.read_csv(run / "log.csv")
    log["grad_norm"] = log["grad_norm"].astype(float)
    log.loc[log.index[-1], "grad_norm"] = np.nan
    log.to_csv(run / "log.csv", index=False)
    status, _, err = stage()
    assert status == 1
    assert "log.csv: the last row's values are not finite" in err
    assert not (run / "out").exists()
