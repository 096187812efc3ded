"""Mean and covariance from batches."""

import pytest
import torch

from mebm.data.moments import StreamingMoments, covariance_fault
from mebm.errors import DataError


def test_moments_survive_a_large_offset():
    rows = torch.randn(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moments = StreamingMoments(3)
    for batch in (rows + 1e8).split(64):
        moments.update(batch)
    assert torch.allclose(moments.covariance(ddof=1), torch.cov(rows.T), atol=1e-6)


def test_a_covariance_of_one_image_is_refused():
    moments = StreamingMoments(3)
    moments.update(torch.zeros(1, 3))
    with pytest.raises(DataError, match="more than 1 images, found 1"):
        moments.covariance(ddof=1)


def test_what_a_covariance_must_be():
    rows = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cov = torch.cov(rows.T)
    assert covariance_fault(cov) == covariance_fault(torch.zeros(3, 3)) == covariance_fault(torch.cov(rows[:2].T)) == ""
    assert covariance_fault(cov + 1e-7 * torch.randn(4, 4)) == ""  # rounding
    assert covariance_fault(cov.triu()) == "it is not symmetric"
    assert covariance_fault(-cov).startswith("it has an eigenvalue of -")
    assert covariance_fault(torch.tensor([[1.0, 2.0], [2.0, 1.0]])) == "it has an eigenvalue of -1, a negative variance"
