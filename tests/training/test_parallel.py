"""Two processes of one run (gloo, on the CPU) do what one would with the whole batch, where that is equal."""

import os
import signal
import subprocess
import sys
import time

import pytest
import smoke
import torch
import yaml

from mebm.data.archives import save_images
from mebm.files import sha256, write_npz
from mebm.method.energy import build_model
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.method.iteration import Algorithm, Drawn, objective_of
from mebm.seeds import generator_for
from mebm.training.checkpoint import load_checkpoint

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(smoke.ROOT)}


@pytest.fixture
def folder(digits, tmp_path):
    """Archives of digits and their Gaussian, and parameters of a run on two devices."""
    save_images(tmp_path / "train.npz", digits.images.numpy(), digits.labels.numpy())
    mean, cov = fit_gaussian(digits.images)
    write_npz(tmp_path / "gaussian.npz", mean=mean.numpy(), cov=cov.numpy(), ridge=torch.tensor(1e-4).double().numpy())
    write(tmp_path, 2)
    return tmp_path


def write(folder, devices: int, save_every: int = 4, **changes) -> None:
    content = smoke.smoke_params()
    content["train"] |= {"epochs": 2, **changes}
    content["compute"] |= {"devices": devices, "save_every": save_every}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))


def train(folder, out: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "stages.train", "--run", "mjem", "--train", "train.npz", "--gaussian"]
    command += ["gaussian.npz", "--out", out]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, cwd=folder, env=ENVIRONMENT, **pipes)


@pytest.mark.more
def test_a_step_of_two_equals_one_with_the_whole_batch(folder, digits):
    command = [*TORCHRUN, str(smoke.ROOT / "tests" / "parallel_worker.py"), "train.npz", "step"]
    subprocess.run(command, cwd=folder, env=ENVIRONMENT, check=True, capture_output=True)
    ranks = [torch.load(folder / f"step.{rank}.pt", weights_only=True) for rank in (0, 1)]
    batch = {key: torch.cat([r[key] for r in ranks]) for key in ("x_pos", "x_init", "x_lab", "labels")}
    assert batch["x_pos"].shape[0] == 64
    assert not torch.equal(ranks[0]["x_init"], ranks[1]["x_init"])
    settings = smoke.section("train", norm="layer", pyx_weight=1.0, l2_coeff=0.0, noise_std=0.0)
    model = build_model(digits.shape, 10, depth=10, width=1, norm="layer")
    model.load_state_dict(ranks[0]["before"])
    drawn = Drawn(batch["x_pos"], batch["x_init"], labelled=(batch["x_lab"], batch["labels"]))
    objective, _ = objective_of(Algorithm(), settings, model.train(), drawn)
    objective()["loss"].backward()
    for name, p in model.named_parameters():
        for rank in ranks:
            assert torch.allclose(rank["gradients"][name], p.grad, rtol=1e-4, atol=1e-6), name
    assert all(torch.equal(a, b) for a, b in zip(ranks[0]["after"].values(), ranks[1]["after"].values(), strict=True))
    # the shards make up the buffer that one process starts with
    init = GaussianInit.from_moments(*fit_gaussian(digits.images), digits.shape, 1e-4).to("cpu")
    whole = init.sample(settings.buffer_size, generator_for("initial draws", settings.seed))
    assert all(torch.equal(rank["whole"], whole) for rank in ranks)


@pytest.mark.more
@pytest.mark.slow
def test_a_run_on_two_devices_through_the_documented_command(folder):
    process = train(folder, "one")
    text, _ = process.communicate()
    assert process.returncode == 0, text
    assert "mjem: 2 processes" in text
    checkpoint = load_checkpoint(folder / "one" / "checkpoint.pt")
    assert checkpoint.replay_buffer.shape[0] == 100
    rows = (folder / "one" / "log.csv").read_text().splitlines()
    assert len(rows) > 3
    again = train(folder, "two")
    again.communicate()
    assert sha256(folder / "one" / "checkpoint.pt") == sha256(folder / "two" / "checkpoint.pt")


@pytest.mark.wide
@pytest.mark.slow
def test_it_resumes_bit_for_bit_and_with_another_number_of_processes(folder):
    write(folder, 2, epochs=12, norm="layer")
    whole = train(folder, "whole")
    whole.communicate()
    assert whole.returncode == 0
    for state in (folder / ".state").rglob("*.pt"):
        state.unlink()
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = train(folder, "parts")
        start = {path.name for path in (folder / ".state").rglob("state_*.pt")}
        while {path.name for path in (folder / ".state").rglob("state_*.pt")} <= start:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        process.communicate()
        assert process.returncode != 0
        while subprocess.run(["pgrep", "-f", f"stages.train.*{folder}"], check=False, capture_output=True).stdout:
            time.sleep(0.1)
    last = train(folder, "parts")
    text, _ = last.communicate()
    assert last.returncode == 0, text
    assert "goes on from iteration" in text
    assert sha256(folder / "parts" / "checkpoint.pt") == sha256(folder / "whole" / "checkpoint.pt")
    # the two last states of that run are still there: one process goes on from the newest of the two processes'
    write(folder, 1, epochs=12, norm="layer")
    alone = train(folder, "alone")
    text, _ = alone.communicate()
    assert alone.returncode == 0, text
    assert "goes on from iteration 128 of 132" in text
    assert load_checkpoint(folder / "alone" / "checkpoint.pt").replay_buffer.shape[0] == 100


@pytest.mark.more
@pytest.mark.slow
def test_a_batch_that_cannot_be_shared_is_named(folder):
    write(folder, 2, batch_size=7)
    process = train(folder, "out")
    text, _ = process.communicate()
    assert process.returncode != 0
    assert "train.batch_size: is 7, expected a multiple of compute.devices (2)" in text
    assert text.count("error: ") == 1
    assert not (folder / "out").exists()


@pytest.mark.more
@pytest.mark.slow
def test_two_processes_go_back_together_and_end_together(folder):
    write(folder, 2, 1, lr=1e9, warmup_iters=0, norm="none", on_divergence="restart", max_restarts=2)
    process = train(folder, "out")
    text, _ = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "restart 1 of 2" in text
    assert "training diverged in iteration" in text
    assert not (folder / "out" / "checkpoint.pt").exists()
