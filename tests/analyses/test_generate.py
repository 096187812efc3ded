"""New samples: which chain depends on what, the mathematics of a step, and the stage `generate`."""

import copy
import json
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import smoke
import torch
import yaml
from PIL import Image
from tape import tape
from torch import nn

from mebm.analyses.generate import BLOCK, Chains, in_batches
from mebm.data.images import load_images, unit_to_bytes
from mebm.errors import Diverged, MetricError
from mebm.files import sha256, write_npz
from mebm.measure.features import extract, save_network
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.measure.quality import QualityMeter
from mebm.method.energy import build_model
from mebm.method.gaussian import GaussianInit, UniformInit
from mebm.method.sgld import sgld_step
from mebm.seeds import generator_for
from mebm.training.checkpoint import Checkpoint, save_checkpoint
from mebm.training.execution import Replay
from stages import generate

SHAPE = (1, 8, 8)
ARCHITECTURE = {"depth": 10, "width": 1, "head": "energy", "norm": "batch", "dropout": 0.0}
STEP = {"step_size": 1.0, "noise_std": 0.05, "grad_bound": None}


class Quadratic(nn.Module):
    """E(x) = sum (x - 0.2)^2 / 2, times a scale."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale), requires_grad=False)

    def energy(self, x):
        return self.scale * ((x - 0.2) ** 2).flatten(1).sum(1) / 2

    def frozen_weights(self):
        return nullcontext()


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = build_model(SHAPE, 3, **ARCHITECTURE).train()
    with torch.no_grad():
        model.energy_head.weight.mul_(20)  # so that a step moves pixels
        for _ in range(3):
            model.energy(torch.rand(50, *SHAPE) * 2 - 1)  # running averages that are not those of a new network
    return model.eval()


@pytest.fixture(scope="module")
def init():
    return GaussianInit.from_moments(torch.zeros(64), 0.1 * torch.eye(64) + 0.05, SHAPE, 0.0)


def moved(model, init, count=5, seed=0, steps=2, batch_size=40, bn_stats="running", **step) -> Chains:
    chains = Chains(model, init, count, seed, batch_size=batch_size, bn_stats=bn_stats, **{**STEP, **step})
    for _ in range(steps):
        chains.step()
    return chains


def pixels(chains: Chains) -> torch.Tensor:
    return torch.cat(chains.batches)[: chains.count]


@pytest.mark.parametrize("bn_stats", ["running", "batch"])
def test_the_first_chains_are_the_same_for_any_count(model, init, bn_stats):
    many = pixels(moved(model, init, 130, bn_stats=bn_stats))
    for count in (1, 2, 40, 41, 101):
        assert torch.equal(pixels(moved(model, init, count, bn_stats=bn_stats)), many[:count]), count


def test_with_running_statistics_the_first_chains_are_the_same_for_any_batch_size(model, init):
    """Also for those that do not divide a block of noise."""
    one = pixels(moved(model, init, 130, batch_size=130))
    for batch_size in (2, 7, 64, 99, 100, 101, 250):
        assert torch.equal(pixels(moved(model, init, 130, batch_size=batch_size)), one), batch_size


def test_with_batch_statistics_a_batch_is_what_counts(model, init):
    small, large = (pixels(moved(model, init, 40, batch_size=n, bn_stats="batch")) for n in (20, 40))
    assert not torch.allclose(small, large, atol=1e-3)


@pytest.mark.parametrize(("bn_stats", "noise_std"), [("batch", 0.05), ("running", 0.0)])
def test_a_recorded_step_is_the_step(model, init, bn_stats, noise_std):
    options = {"batch_size": 20, "bn_stats": bn_stats, **STEP, "noise_std": noise_std}
    eager, recorded = (Chains(model, init, 50, 0, **options) for _ in range(2))
    recorded._launch = Replay(recorded._moved, dict, tape)
    for _ in range(3):
        eager.step()
        recorded.step()
        assert torch.equal(pixels(eager), pixels(recorded))


@pytest.mark.gpu
def test_a_cuda_graph_moves_chains_as_single_launches_do(model, init):
    on_gpu = copy.deepcopy(model).to("cuda")
    eager, graph = (moved(on_gpu, init, 50, batch_size=20, execution=way) for way in ("eager", "graph"))
    assert torch.equal(pixels(eager), pixels(graph))


def test_batch_statistics_are_those_of_training_and_leave_running_averages_alone(model, init):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    chains = moved(model, init, 10, batch_size=10, bn_stats="batch", steps=0, noise_std=0.0)
    x = chains.batches[0]
    chains.step()
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not model.training
    assert not any(layer.training for layer in model.modules())
    twin = build_model(SHAPE, 3, **ARCHITECTURE)
    twin.load_state_dict(before)
    twin.train()
    expected, _ = sgld_step(twin.energy, x, 1.0, 0.0, None)
    assert torch.equal(chains.batches[0], expected)


def test_chains_differ_from_each_other_within_and_between_blocks_and_by_seed(model, init):
    chains = pixels(moved(model, init, 2 * BLOCK + 1)).flatten(1)
    assert len(chains.unique(dim=0)) == len(chains)
    other = pixels(moved(model, init, 2 * BLOCK + 1, seed=1)).flatten(1)
    assert len(torch.cat([chains, other]).unique(dim=0)) == 2 * len(chains)


@pytest.mark.parametrize("uniform", [False, True])
def test_starts_are_whole_blocks_of_draws(model, init, uniform):
    init = UniformInit(SHAPE) if uniform else init
    blocks = [init.to("cpu").sample(BLOCK, generator_for(f"generated start {b}", 3)) for b in range(2)]
    assert torch.equal(pixels(moved(model, init, 150, seed=3, steps=0)), torch.cat(blocks)[:150])


def test_noise_of_a_chain_is_one_stream_over_its_steps(init):
    chains = moved(Quadratic(0.0), init, 150, seed=3, steps=2, batch_size=64, noise_std=0.01)
    expected = pixels(moved(Quadratic(0.0), init, 150, seed=3, steps=0))
    generators = [generator_for(f"generated noise {block}", 3) for block in range(2)]
    for _ in range(2):
        noise = torch.cat([torch.randn(BLOCK, *SHAPE, generator=generator) for generator in generators])
        expected = (expected + 0.01 * noise[:150]).clamp(-1, 1)
    assert torch.equal(pixels(chains), expected)


def test_a_quadratic_energy_ends_at_its_stationary_distribution(init):
    """x' = x - a (x - 0.2) + s eps: mean 0.2, variance s^2 / (1 - (1 - a)^2), from any start."""
    x = pixels(moved(Quadratic(), init, 300, steps=30, step_size=0.3, noise_std=0.1))
    assert float(x.mean()) == pytest.approx(0.2, abs=0.005)
    assert float(x.std()) == pytest.approx(0.1 / math.sqrt(1 - 0.7**2), rel=0.02)


def test_the_bound_of_the_gradient(init):
    free, bounded = (
        pixels(moved(Quadratic(), init, 20, steps=1, step_size=0.1, noise_std=0.0, grad_bound=bound))
        for bound in (None, 0.1)
    )
    start = pixels(moved(Quadratic(), init, 20, steps=0))
    assert float((free - start).abs().max()) > 0.011
    assert float((bounded - start).abs().max()) <= 0.01 + 1e-6


@pytest.mark.parametrize("scale", [math.inf, math.nan])
def test_a_gradient_that_is_not_finite_is_named_with_its_step(init, scale):
    """An infinite one would be hidden by clipping to [-1, 1]."""
    chains = moved(Quadratic(), init, 5, steps=1, batch_size=10)
    chains.model.scale.fill_(scale)
    with pytest.raises(Diverged, match=r"gradients of 10 of 10 chains are not finite in step 2 .*generate.grad_bound"):
        chains.step()


@pytest.mark.parametrize("bn_stats", ["running", "batch"])
def test_energies_and_bytes_are_of_the_chains_that_were_asked_for(model, init, bn_stats):
    chains = moved(model, init, 50, batch_size=40, bn_stats=bn_stats)
    assert torch.equal(chains.images(), unit_to_bytes(pixels(chains)))
    assert torch.equal(chains.images(3), chains.images()[:3])
    assert len(chains.images(1000)) == 50
    energies = chains.energies(bn_stats)
    assert energies.shape == (50,)
    with torch.no_grad():
        running = model.energy(pixels(chains))
    assert torch.allclose(energies, running, atol=1e-5) == (bn_stats == "running")
    assert torch.allclose(chains.energies("running"), running, atol=1e-5)


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100])
def test_rows_of_blocks_in_batches(size):
    rows = torch.arange(13)
    for sizes in ([13], [4, 4, 5], [1] * 13):
        assert [part.tolist() for part in in_batches(rows.split(sizes), size)] == [p.tolist() for p in rows.split(size)]


# --- the stage


@pytest.fixture
def run(tmp_path, digits, model):
    """Calls the stage on a small run in tmp_path; settings of `train` may be changed."""
    data = digits.images[:200]
    torch.manual_seed(0)
    network = FeatureClassifier(1, 10, 4).eval()
    save_network(tmp_path / "features.pt", network)
    mu, sigma, _, features = extract(network, data, 100, torch.arange(200))
    stats = {"mu": mu.numpy(), "sigma": sigma.numpy(), "count": np.int64(200), "shape": np.array(SHAPE)}
    stats["features"] = features.numpy()
    stats |= {"preprocessing": np.array("classifier"), "features_sha256": np.array(sha256(tmp_path / "features.pt"))}
    write_npz(tmp_path / "reference.npz", **stats)
    write_npz(tmp_path / "gaussian.npz", mean=np.zeros(64), cov=0.1 * np.eye(64), ridge=np.float64(1e-4))
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))

    def call(*argv: object, out: str = "out", net=model, **train) -> int:
        settings = smoke.section("train", **{"noise_std": 0.02, **train}).model_dump()
        checkpoint = Checkpoint(net, torch.zeros(2, *SHAPE), settings, SHAPE, 3, 1)
        save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
        words = ["--run", "mebm", "--params", tmp_path / "params.yaml", "--logs", tmp_path / "logs"]
        words += ["--checkpoint", tmp_path / "checkpoint.pt", "--gaussian", tmp_path / "gaussian.npz"]
        words += ["--features", tmp_path / "features.pt", "--reference", tmp_path / "reference.npz"]
        return generate.main([str(word) for word in (*words, "--out", tmp_path / out, *argv)])

    return call


def record(folder: Path) -> dict:
    text = (folder / "metrics.json").read_text()
    assert "NaN" not in text
    return json.loads(text)


def files(folder: Path) -> dict[str, bytes]:
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".mebm.")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_what_the_stage_writes(run, tmp_path):
    assert run("--count", 20, "--steps", 5, "--grid-every", 2, "--quality-every", 3, "--png-images", 2) == 0
    out = tmp_path / "out"
    figures = [f"figures/steps_{step:04d}.png" for step in (0, 2, 4, 5)]
    names = ["curve.csv", "figures/curve.svg", *figures, "images/00000.png", "images/00001.png"]
    assert sorted(files(out)) == sorted([*names, "metrics.json", "samples.npz"])
    samples = load_images(out / "samples.npz").images
    assert samples.shape == (20, *SHAPE)
    assert np.array_equal(np.asarray(Image.open(out / "images" / "00001.png")), samples[1, 0].numpy())
    curve, found = pd.read_csv(out / "curve.csv"), record(out)
    assert curve["steps"].tolist() == [0, 3, 5]
    assert set(curve["distance_name"]) == {"fcd"}
    assert (found["status"], found["count"], found["n_images"], found["steps"]) == ("ok", 20, 20, 5)
    assert found["fcd"] == curve["distance"].iloc[-1] > 0
    assert found["classifier_score"] == curve["score"].iloc[-1] >= 1
    assert found["precision"] == curve["precision"].iloc[-1]
    assert found["recall"] == curve["recall"].iloc[-1]
    assert (found["neighbours"], found["n_features"], found["precision_status"]) == (3, 20, "ok")
    assert found["best_distance"] == curve["distance"].min()
    assert found["best_step"] == curve["steps"][curve["distance"].idxmin()]
    assert found["energy_mean"] == curve["energy"].iloc[-1] < found["energy_mean_of_starts"]
    assert (found["bn_stats"], found["batch_size"], found["noise_std"], found["init"]) == (
        "batch",
        10,
        0.02,
        "gaussian",
    )
    assert found["samples_sha256"] == sha256(out / "samples.npz")


def test_twice_gives_the_same_bytes_and_fewer_chains_the_first_ones(run, tmp_path):
    assert run(out="one") == run(out="two") == run("--count", 12, out="few") == 0
    assert files(tmp_path / "one") == files(tmp_path / "two")
    one, few = (load_images(tmp_path / name / "samples.npz").images for name in ("one", "few"))
    assert torch.equal(one[:12], few)
    assert run("--seed", 1, out="other") == 0
    assert not torch.equal(one, load_images(tmp_path / "other" / "samples.npz").images)


@pytest.mark.parametrize(
    ("count", "status", "distance", "score"),
    [
        (1, "a distance and a score need more than 1 image", False, False),
        (7, "7 images cannot be split into 10 parts, so there is no score", True, False),
        (10, "ok", True, True),
    ],
)
def test_few_samples(run, tmp_path, count, status, distance, score):
    assert run("--count", count) == 0
    found, curve = record(tmp_path / "out"), pd.read_csv(tmp_path / "out" / "curve.csv")
    assert (found["status"], found["n_images"]) == (status, count)
    assert (found["fcd"] is not None, found["classifier_score"] is not None) == (distance, score)
    assert (found["precision"] is not None) == distance
    assert (curve["distance"].notna().all(), curve["score"].notna().all()) == (distance, score)
    assert (found["best_step"] is not None) == distance
    assert len(list((tmp_path / "out" / "images").iterdir())) == count


def test_few_images_elsewhere_stay_an_error(run, tmp_path):
    assert run("--steps", 1) == 0
    meter = QualityMeter(tmp_path / "features.pt", tmp_path / "reference.npz", torch.device("cpu"), 100)
    images = load_images(tmp_path / "out" / "samples.npz").images
    with pytest.raises(MetricError, match="7 images cannot be split into 10 parts"):
        meter.measure(images[:7], 10, 0)
    whole = meter.measure(images, 10, 0)
    assert meter.measure(images, 10, 0, few=True) == whole


def test_a_shorter_run_into_the_same_folder_leaves_no_old_picture_and_no_foreign_one_goes(run, tmp_path):
    assert run() == 0
    figures, images = tmp_path / "out" / "figures", tmp_path / "out" / "images"
    for path in (figures / "mine.png", images / "holiday.png"):
        path.write_text("not of the stage")
    assert run("--steps", 2, "--png-images", 0) == 0
    assert {path.name for path in figures.iterdir()} == {"steps_0000.png", "steps_0002.png", "curve.svg", "mine.png"}
    assert [path.name for path in images.iterdir()] == ["holiday.png"]


def test_pictures_of_others_are_neither_removed_nor_replaced(run, tmp_path, capsys):
    folder = tmp_path / "out" / "images"
    folder.mkdir(parents=True)
    for index in range(60):
        (folder / f"{index:05d}.png").write_text(f"holiday {index}")
    assert run("--png-images", 3) == 1
    assert f"{folder / '00000.png'}: already exists" in error_line(capsys.readouterr().err)
    assert [path.read_text() for path in sorted(folder.iterdir())] == [f"holiday {index}" for index in range(60)]
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["images"]
    assert run("--png-images", 0) == 0
    assert run("--png-images", 0, "--steps", 2) == 0
    assert [path.read_text() for path in sorted(folder.iterdir())] == [f"holiday {index}" for index in range(60)]


def test_no_single_pictures_still_make_their_folder(run, tmp_path):
    assert run("--png-images", 0) == 0
    assert list((tmp_path / "out" / "images").iterdir()) == []


def test_settings_of_the_run_and_of_the_command(run, tmp_path):
    assert run("--noise-std", 0.0, "--grad-bound", 0.5, "--bn-stats", "running", init="uniform", step_size=0.25) == 0
    found = record(tmp_path / "out")
    assert (found["noise_std"], found["grad_bound"], found["step_size"]) == (0.0, 0.5, 0.25)
    assert (found["init"], found["gaussian_sha256"], found["bn_stats"]) == ("uniform", None, "running")


def error_line(err: str) -> str:
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, err
    return lines[0]


def test_chains_that_are_not_finite_end_in_one_line_and_leave_nothing(run, tmp_path, capsys, model):
    broken = build_model(SHAPE, 3, **ARCHITECTURE)
    broken.load_state_dict(model.state_dict())
    with torch.no_grad():
        broken.energy_head.weight.fill_(math.inf)
    assert run(net=broken) == 1
    assert "not finite" in error_line(capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_reference_of_another_data_set(run, tmp_path, capsys):
    arrays = dict(np.load(tmp_path / "reference.npz"))
    np.savez(tmp_path / "reference.npz", **{**arrays, "shape": np.array([3, 32, 32])})
    assert run() == 1
    line = error_line(capsys.readouterr().err)
    assert "reference.npz" in line
    assert "3x32x32" in line
    assert "1x8x8" in line
    assert not (tmp_path / "out").exists()


def test_a_batch_of_one_is_refused(run, capsys):
    assert run("--batch-size", 1) == 2
    assert "--batch-size: is 1" in error_line(capsys.readouterr().err)
