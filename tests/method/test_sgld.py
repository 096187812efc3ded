"""The sampler on energies whose answer is known."""

import pytest
import torch

from mebm.method.sgld import sgld, sgld_step, step_noise


def quadratic(x):
    """Energy of a Gaussian with mean 0.1 and standard deviation 0.1 in every pixel."""
    return ((x - 0.1) ** 2).flatten(1).sum(1) / (2 * 0.1**2)


def test_finds_the_mean_and_variance_of_a_gaussian():
    """Langevin dynamics: step_size is half the squared noise (here to first order in the step)."""
    generator = torch.Generator().manual_seed(0)
    x = torch.zeros(500, 1, 4, 4)
    step = 5e-4
    x, _ = sgld(quadratic, x, 200, step, (2 * step) ** 0.5, None, step_noise(x.shape, 200, generator))
    assert float(x.mean()) == pytest.approx(0.1, abs=0.005)
    assert float(x.std()) == pytest.approx(0.1, rel=0.05)


def test_a_step_goes_downhill_in_energy():
    x = torch.full((2, 1, 4, 4), 0.5)
    moved, _ = sgld_step(quadratic, x, 1e-3, 0.0, None)
    assert bool((quadratic(moved) < quadratic(x)).all())


def test_no_steps_return_the_start():
    x = torch.rand(2, 1, 4, 4)
    moved, grad_norm = sgld(quadratic, x, 0, 1.0, 0.1, 1.0)
    assert torch.equal(moved, x)
    assert float(grad_norm) == 0


def test_the_bound_bounds_each_element():
    x = torch.full((2, 1, 4, 4), 0.5)
    moved, gradient = sgld_step(quadratic, x, 0.1, 0.0, 0.2)
    assert float(gradient.abs().min()) > 0.2
    assert torch.allclose(moved, x - 0.1 * 0.2)


def test_samples_stay_in_range_and_carry_no_gradient():
    x = torch.rand(2, 1, 4, 4) * 2 - 1
    moved, _ = sgld(quadratic, x, 3, 50.0, 5.0, None, step_noise(x.shape, 3, torch.Generator()))
    assert float(moved.abs().max()) <= 1
    assert not moved.requires_grad


def test_the_start_is_left_alone():
    x = torch.rand(2, 1, 4, 4)
    before = x.clone()
    sgld(quadratic, x, 2, 0.1, 0.1, 1.0, step_noise(x.shape, 2, torch.Generator()))
    assert torch.equal(x, before)
    assert not x.requires_grad


def test_every_step_adds_noise_of_its_own():
    x, noise = torch.zeros(3, 1, 4, 4), step_noise((3, 1, 4, 4), 2, torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    for eps in noise:
        assert torch.equal(eps, torch.randn(x.shape, generator=generator))
    moved, _ = sgld(lambda x: x.flatten(1).sum(1) * 0, x, 2, 1.0, 0.1, None, noise)
    assert torch.allclose(moved, 0.1 * (noise[0] + noise[1]))
