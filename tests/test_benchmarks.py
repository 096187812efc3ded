"""The plain baseline that speed is measured against computes the same function as the library."""

import sys

import pytest
import smoke
import torch

from mebm.method.energy import build_model
from mebm.method.iteration import Algorithm, Drawn, objective_of
from mebm.method.sgld import sgld
from mebm.training.release import from_release_state

sys.path.insert(0, str(smoke.ROOT / "benchmarks"))
from baseline import Baseline, objective, plain_model, sgld_plain

from mebm.method.gaussian import fit_gaussian


@pytest.fixture(scope="module")
def models():
    """The oracle's weights in ours and in the plain model, in float64."""
    settings = smoke.section("train", depth=10, width=1, noise_std=0.0, n_steps=3, pyx_weight=1.0, l2_coeff=0.3)
    state = torch.load(smoke.ROOT / "tests" / "oracle" / "wrn10_1_uncond.pt", weights_only=True)["model_state_dict"]
    state = from_release_state(state)
    ours = build_model((3, 32, 32), 10, depth=10, width=1).double()
    plain = plain_model((3, 32, 32), 10, settings).double()
    for model in (ours, plain):
        model.load_state_dict(state)
        model.train()
    return ours, plain, settings


def batch(n: int, seed: int) -> torch.Tensor:
    return torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_the_plain_model_has_the_same_energies_and_samples(models):
    ours, plain, settings = models
    x = batch(6, 0)
    assert torch.allclose(plain.energy(x), ours.energy(x), rtol=1e-10, atol=1e-12)
    expected, _ = sgld(ours.energy, x, 3, settings.step_size, 0.0, settings.grad_bound)
    assert torch.allclose(sgld_plain(plain, x, settings), expected, rtol=1e-8, atol=1e-10)


def test_the_plain_objective_has_the_same_value_and_gradients(models):
    ours, plain, settings = models
    x_pos, x_init = batch(6, 1), batch(6, 2)
    labelled = batch(8, 3), torch.arange(8) % 10
    ours_of, samples = objective_of(Algorithm(), settings, ours, Drawn(x_pos, x_init, labelled=labelled))
    terms, x_neg = ours_of(), samples().x_neg
    terms["loss"].backward()
    loss = objective(plain, x_pos, x_neg, labelled, settings)
    loss.backward()
    assert loss.detach().item() == pytest.approx(terms["loss"].detach().item(), rel=1e-10)
    for (name, a), b in zip(ours.named_parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-6, atol=1e-9), name


def test_the_plain_iteration_runs(digits):
    settings = smoke.section("train", pyx_weight=1.0, batch_size=8, label_batch_size=8, buffer_size=20)
    mean, cov = (moment.numpy() for moment in fit_gaussian(digits.images))
    run = Baseline(settings, digits, mean, cov, torch.device("cpu"))
    before = run.model.energy_head.weight.clone()
    losses = [run.step() for _ in range(3)]
    assert all(map(torch.isfinite, torch.tensor(losses)))
    assert not torch.equal(run.model.energy_head.weight, before)


@pytest.mark.more
def test_the_benchmark_of_iterations_measures_training(capsys):
    import train_step

    cases = ["--networks", "10-1", "--size", "8", "--steps", "1", "--rounds", "1", "--ways", "float32 eager"]
    train_step.main([*cases, "--threads", "1", "--kernels"])
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| 10-1")]
    assert [(row[2], row[5]) for row in rows] == [(m, w) for m in ("M-EBM", "M-JEM") for w in ("plain", "eager")]
    assert all(float(row[6]) > 0 for row in rows)
    assert any("convolution" in line for line in lines)
