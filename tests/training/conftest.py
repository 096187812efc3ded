"""Where chains of the digits start, and the GPU's deterministic kernels."""

from collections.abc import Iterator

import pytest
import torch

from mebm.data.images import ImageSet
from mebm.method.gaussian import GaussianInit, fit_gaussian


@pytest.fixture(scope="session")
def init(digits: ImageSet) -> GaussianInit:
    return GaussianInit.from_moments(*fit_gaussian(digits.images), digits.shape, 1e-4)


@pytest.fixture
def exact() -> Iterator[None]:
    """PyTorch's deterministic kernels, as `compute.deterministic` has them."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
