"""docs/use.md as pasted, on a small run; and what else `mebm.load` must give and refuse."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import smoke
import torch
from smoke import ROOT

import mebm
from mebm.data.archives import save_images
from mebm.data.images import ImageSet, bytes_to_unit, unit_to_bytes
from mebm.files import write_npz
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.training.checkpoint import Checkpoint, save_checkpoint
from mebm.training.loop import train_model

PAGE = (ROOT / "docs" / "use.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(scope="module")
def project(tmp_path_factory, digits) -> Path:
    """A folder with a run of the demo's name, trained for an epoch, its data set and the project's parameters."""
    folder = tmp_path_factory.mktemp("use")
    shutil.copy(ROOT / "params.yaml", folder)
    mean, cov = fit_gaussian(digits.images)
    train = smoke.section("train", pyx_weight=1.0, lr=0.02, epochs=2, noise_std=0.005)
    trained = train_model(train, digits, GaussianInit.from_moments(mean, cov, digits.shape, 1e-4), torch.device("cpu"))
    made = (trained.model, trained.buffer.images, train.model_dump(), digits.shape, 10, trained.iterations)
    save_checkpoint(folder / "results/mjem_mnist/train/checkpoint.pt", Checkpoint(*made))
    made[2]["pyx_weight"] = 0.0
    save_checkpoint(folder / "results/mebm_mnist/train/checkpoint.pt", Checkpoint(*made))
    save_images(folder / "data/mnist/test.npz", digits.images[:200].numpy(), digits.labels[:200].numpy())
    statistics = {"mean": mean.numpy(), "cov": cov.numpy(), "ridge": np.float64(1e-4)}
    write_npz(folder / "data/mnist/gaussian.npz", **statistics)
    return folder


@pytest.fixture
def held_out(digits) -> ImageSet:
    return ImageSet(digits.images[:50], digits.labels[:50], digits.classes)


@pytest.fixture
def run(project):
    return mebm.load(project / "results" / "mjem_mnist", device="cpu")


def test_the_page_as_pasted(project, monkeypatch, capsys):
    monkeypatch.chdir(project)
    assert len(BLOCKS) == PAGE.count("```") // 2 == 7
    seen: dict = {}
    for block in BLOCKS:
        exec(compile(block, "docs/use.md", "exec"), seen)
    lines = capsys.readouterr().out.splitlines()
    where = "results/mjem_mnist/train/checkpoint.pt"
    assert lines[0] == f"<{where}: 1x8x8, 10 classes, 100 chains, after 22 iterations>"
    assert (seen["energies"].shape, seen["logits"].shape) == ((200,), (200, 10))
    assert (seen["new"].shape, seen["new"].dtype) == ((20, 1, 8, 8), torch.uint8)
    expected = (seen["logits"].argmax(1) == torch.from_numpy(seen["labels"])).double().mean()
    assert lines[1] == f"mean energy {seen['energies'].mean():.3f}, accuracy {expected:.4f}"
    assert seen["run"].energies(seen["best"]).max() <= seen["run"].energies(seen["samples"]).median()
    assert re.fullmatch(r"mean energy \S+ \(running\), \S+ \(batch\)", lines[2])
    assert not torch.allclose(seen["by_running"], seen["by_batch"], atol=1e-3)
    assert lines[-1] == "images are [1, 3, 64, 64], expected uint8, or floats in [-1, 1], [N, 1, 8, 8]"


def test_bytes_floats_arrays_and_tensors_are_the_same_images(run, held_out):
    x = bytes_to_unit(held_out.images)
    ways = (held_out.images, held_out.images.numpy(), x, x.numpy(), x.double())
    for images in ways:
        assert torch.equal(run.energies(images), run.energies(held_out.images))
    with torch.no_grad():
        assert torch.allclose(run.energies(x), run.model.energy(x), atol=1e-5)


def test_energies_do_not_depend_on_other_images_unless_asked(run, held_out):
    one, all_ = run.energies(held_out.images[:5]), run.energies(held_out.images)
    assert torch.allclose(one, all_[:5], atol=1e-5)
    by_batch = run.energies(held_out.images, bn_stats="batch")
    assert not torch.allclose(run.energies(held_out.images[:5], bn_stats="batch"), by_batch[:5], atol=1e-3)
    with torch.no_grad():
        twin = mebm.load(run.path, "cpu").model.train()
        assert torch.equal(by_batch, twin.energy(bytes_to_unit(held_out.images)))


def test_the_buffer_and_its_bytes(run):
    assert torch.equal(run.samples, unit_to_bytes(run.buffer.images))


def test_samples_are_those_of_the_stage(run, project):
    from mebm.analyses.generate import Chains
    from mebm.method.gaussian import load_init

    init = load_init("gaussian", project / "data/mnist/gaussian.npz", run.shape)
    options = {"batch_size": 10, "step_size": 1.0, "noise_std": 0.005, "grad_bound": None}
    chains = Chains(run.model, init, 15, 3, bn_stats="batch", **options)
    for _ in range(4):
        chains.step()
    steps: list[int] = []
    assert torch.equal(run.sample(15, 4, seed=3, batch_size=10, on_step=steps.append), chains.images())
    assert steps == [1, 2, 3, 4]
    assert torch.equal(run.sample(8, 4, seed=3, batch_size=10), chains.images(8))
    assert not torch.equal(run.sample(15, 4, seed=3, batch_size=10, bn_stats="running"), chains.images())


def raised(call) -> str:
    with pytest.raises(mebm.MebmError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_mistakes_are_one_line_each(project, run, held_out, tmp_path):
    images = held_out.images
    assert "holds no train/checkpoint.pt" in raised(lambda: mebm.load(tmp_path))
    assert "nowhere" in raised(lambda: mebm.load(tmp_path / "nowhere"))
    assert "'tpu9'" in raised(lambda: mebm.load(run.path, device="tpu9"))
    assert "range from 0 to" in raised(lambda: run.energies(images.float()))
    assert "torch.int64" in raised(lambda: run.energies(images.long()))
    assert "range from nan" in raised(lambda: run.energies(torch.full((1, 1, 8, 8), torch.nan)))
    assert "images are list" in raised(lambda: run.energies(["a picture"]))
    assert "images are [8, 8]" in raised(lambda: run.energies(images[0, 0]))
    assert "'eval', expected running or batch" in raised(lambda: run.energies(images, bn_stats="eval"))
    assert "labels run from 1 to 99, expected 3 integers from 0 to" in raised(
        lambda: run.accuracy(images[:3], [1, 2, 99])
    )
    assert "there are no images" in raised(lambda: run.accuracy(images[:0], []))
    for wrong in ({"count": "a"}, {"noise_std": -1}, {"seed": -1}, {"grad_bound": 0}, {"steps": 1.5}):
        said = raised(lambda wrong=wrong: run.sample(**{"count": 1, "steps": 1} | wrong))
        assert said.startswith(f"{next(iter(wrong))} is "), said
    assert "path is None, expected a run's folder" in raised(lambda: mebm.load(None))
    assert "batch_size is 0" in raised(lambda: run.energies(images, batch_size=0))
    assert "expected 50 integers" in raised(lambda: run.accuracy(images, held_out.labels[:3]))
    unconditional = mebm.load(project / "results" / "mebm_mnist")
    assert "pyx_weight is 0" in raised(lambda: unconditional.accuracy(images, held_out.labels))
    shutil.copytree(project / "results" / "mjem_mnist", tmp_path / "results" / "elsewhere")
    moved = mebm.load(tmp_path / "results" / "elsewhere")
    assert "give gaussian=PATH" in raised(lambda: moved.sample(1, 1))
    shutil.copy(project / "params.yaml", tmp_path)
    assert "has no run 'elsewhere'" in raised(lambda: moved.sample(1, 1))
    assert moved.sample(1, 1, gaussian=project / "data/mnist/gaussian.npz").shape == (1, 1, 8, 8)


def test_importing_the_package_imports_nothing_else():
    script = "import sys, mebm; assert not {'torch', 'numpy', 'mebm.api', 'mebm.errors'} & set(sys.modules); mebm.load"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = mebm.lod
