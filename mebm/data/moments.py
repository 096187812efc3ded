"""Mean and covariance of more rows than fit into memory, and what a matrix must be to be a covariance."""

import torch
from torch import Tensor

from mebm.errors import DataError

ROUNDING = 1e-5  # of a covariance's largest entry: float32 statistics of thousands of dimensions are off by less


class StreamingMoments:
    """Mean and covariance of row vectors, in float64, from batches, without keeping them.

    Batches are merged by the pairwise update (Chan, Golub and LeVeque 1979), which stays accurate where the naive
    sum of squares cancels.
    """

    def __init__(self, dimension: int, device: torch.device | str = "cpu"):
        self.count = 0
        self.mean = torch.zeros(dimension, dtype=torch.float64, device=device)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64, device=device)

    def update(self, rows: Tensor) -> None:
        """Add rows, [n, D] of any float type."""
        rows = rows.to(torch.float64)
        n, total = len(rows), self.count + len(rows)
        mean = rows.mean(0)
        centred = rows - mean
        delta = mean - self.mean
        self._scatter.addmm_(centred.T, centred)
        if self.count:
            self._scatter.addr_(delta, delta, alpha=self.count * n / total)
        self.mean += delta * (n / total)
        self.count = total

    def covariance(self, ddof: int = 0) -> Tensor:
        """Covariance [D, D], exactly symmetric, divided by count - ddof. Raises DataError with too few rows."""
        if self.count <= ddof:
            raise DataError(f"a covariance needs more than {ddof} images, found {self.count}")
        cov = self._scatter / (self.count - ddof)
        return (cov + cov.T) / 2


def is_symmetric(matrix: Tensor) -> bool:
    """Whether a finite matrix [D, D] is symmetric up to rounding."""
    return float((matrix - matrix.T).abs().max()) <= ROUNDING * float(matrix.abs().max())


def negative_variance(eigenvalues: Tensor) -> str:
    """Why a symmetric matrix of these eigenvalues [D], rising, is no covariance; empty where rounding explains them."""
    least, limit = float(eigenvalues[0]), -ROUNDING * float(eigenvalues.abs().max())
    return f"it has an eigenvalue of {least:.3g}, a negative variance" if least < limit else ""


def covariance_fault(matrix: Tensor) -> str:
    """Why a finite matrix [D, D] can be no covariance; empty where it can. Faults of the size of rounding are none."""
    if not is_symmetric(matrix):
        return "it is not symmetric"
    factorises = not torch.linalg.cholesky_ex(matrix)[1]
    return "" if factorises else negative_variance(torch.linalg.eigvalsh(matrix))
