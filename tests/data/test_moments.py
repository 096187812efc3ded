"""Mean and covariance from batches."""

import pytest
import torch

from mebm.data.moments import StreamingMoments
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
