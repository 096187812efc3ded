"""The initial distribution: fit, factor, draws."""

import numpy as np
import pytest
import torch

from mebm.data.blocks import block_mean, block_repeat
from mebm.data.images import bytes_to_unit
from mebm.errors import DataError
from mebm.files import write_npz
from mebm.method.gaussian import (
    MOMENTS,
    ClasswiseInit,
    GaussianInit,
    UniformInit,
    block_size,
    fit_classes,
    fit_gaussian,
    load_init,
)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (120, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_fit_equals_the_definition_for_any_batch_size(images):
    rows = bytes_to_unit(images, torch.float64).flatten(1)
    expected = torch.cov(rows.T, correction=0)
    for batch_size in (7, 120, 1000):
        mean, cov = fit_gaussian(images, batch_size)
        assert torch.allclose(mean, rows.mean(0), atol=1e-12)
        assert torch.allclose(cov, expected, atol=1e-12)
        assert torch.equal(cov, cov.T)


def test_draws_have_the_fitted_moments():
    mean = torch.tensor([0.1, -0.1, 0.0, 0.2], dtype=torch.float64)
    root = 0.05 * torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    init = GaussianInit.from_moments(mean, root @ root.T, (1, 2, 2), 1e-4).to("cpu")
    x = init.sample(50_000, torch.Generator().manual_seed(0)).flatten(1).double()
    assert torch.allclose(x.mean(0), mean, atol=2e-3)
    assert torch.allclose(torch.cov(x.T), root @ root.T + 1e-4 * torch.eye(4), atol=3e-4)


def test_draws_are_clipped_and_blocks_repeat():
    init = GaussianInit.from_moments(torch.zeros(32 * 32), 4 * torch.eye(32 * 32), (1, 64, 64), 1e-4).to("cpu")
    x = init.sample(2, torch.Generator().manual_seed(0))
    assert x.shape == (2, 1, 64, 64)
    assert float(x.abs().max()) == 1
    assert torch.equal(x, block_repeat(block_mean(x, 2), 2))


def test_a_covariance_that_is_not_symmetric_is_refused():
    """The factorisation reads one half and would take the other for the same."""
    cov = torch.eye(4)
    cov[0, 3] = 0.5
    with pytest.raises(DataError, match="the covariance is not symmetric; fit the Gaussian again"):
        GaussianInit.from_moments(torch.zeros(4), cov, (1, 2, 2), 1e-4)


def test_uniform_start_fills_the_range():
    x = UniformInit((1, 8, 8)).sample(200, torch.Generator().manual_seed(0))
    assert float(x.min()) == pytest.approx(-1, abs=1e-3)
    assert float(x.max()) == pytest.approx(1, abs=1e-3)
    assert float(x.var()) == pytest.approx(1 / 3, abs=0.01)


def test_block_sizes():
    sizes = {16: 1, 63: 1, 64: 2, 99: 2, 100: 4, 256: 4, 257: 8, 512: 8, 1024: 16, 1025: 1}
    assert {size: block_size(size) for size in sizes} == sizes


def test_images_that_blocks_do_not_tile():
    with pytest.raises(DataError, match="99 pixels cannot be split into blocks of 2"):
        fit_gaussian(torch.zeros(4, 1, 99, 99, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        (torch.zeros(4), torch.zeros(3, 3), "shapes"),
        (torch.zeros(4), torch.full((4, 4), float("nan")), "not finite"),
        (torch.zeros(4), -torch.eye(4), "not positive definite"),
    ],
)
def test_statistics_that_cannot_be_drawn_from(mean, cov, message):
    with pytest.raises(DataError, match=message):
        GaussianInit.from_moments(mean, cov, (1, 2, 2), 1e-4)


def two_classes() -> ClasswiseInit:
    """A class around -0.5 with a share of a quarter, and a wider one around 0.5."""
    means, roots = torch.tensor([[-0.5] * 4, [0.5] * 4]).double(), [0.02, 0.1]
    covs = torch.stack([root**2 * torch.eye(4) for root in roots])
    return ClasswiseInit.from_moments(means, covs, torch.tensor([0.25, 0.75]), (1, 2, 2), 1e-6)


def test_classes_are_fitted_by_themselves(images):
    labels = torch.arange(len(images)) % 3 % 2
    means, covs, shares = fit_classes(images, labels, 2)
    assert shares.tolist() == [2 / 3, 1 / 3]
    for label in range(2):
        mean, cov = fit_gaussian(images[labels == label])
        assert torch.equal(means[label], mean)
        assert torch.allclose(covs[label].double(), cov, atol=1e-6)
    with pytest.raises(DataError, match="class 2 has no training images"):
        fit_classes(images, labels, 3)


@pytest.mark.parametrize("at_once", [50, 20_000])
def test_each_class_has_its_share_and_its_moments(at_once):
    init, generator = two_classes(), torch.Generator().manual_seed(0)
    x = torch.cat([init.sample(at_once, generator) for _ in range(20_000 // at_once)]).flatten(1)
    first = x[:, 0] < 0
    assert float(first.float().mean()) == pytest.approx(0.25, abs=0.01)
    for of, mean, std in ((first, -0.5, 0.02), (~first, 0.5, 0.1)):
        assert torch.allclose(x[of].mean(0), torch.full((4,), mean), atol=0.005)
        cov = torch.cov(x[of].T)
        assert torch.allclose(cov, (std**2 + 1e-6) * torch.eye(4), atol=5e-4)


def test_moments_of_classes_come_back_from_their_archive(images, tmp_path):
    moments = fit_classes(images, torch.arange(len(images)) % 2, 2)
    arrays = dict(zip(MOMENTS["classwise"], (value.numpy() for value in moments), strict=True))
    mean, cov = fit_gaussian(images)
    write_npz(tmp_path / "a.npz", mean=mean.numpy(), cov=cov.numpy(), ridge=np.float64(1e-4), **arrays)
    loaded = load_init("classwise", tmp_path / "a.npz", (1, 4, 4))
    expected = ClasswiseInit.from_moments(*moments, (1, 4, 4), 1e-4)
    draws = [init.sample(9, torch.Generator().manual_seed(0)) for init in (loaded, expected)]
    assert torch.equal(*draws)
    write_npz(tmp_path / "b.npz", mean=mean.numpy(), cov=cov.numpy(), ridge=np.float64(1e-4))
    with pytest.raises(DataError, match=r"b\.npz: lacks class_mean; set gaussian\.classwise, or fit"):
        load_init("classwise", tmp_path / "b.npz", (1, 4, 4))
    assert isinstance(load_init("gaussian", tmp_path / "b.npz", (1, 4, 4)), GaussianInit)
