"""Metrics: arrays in, floats out. Frechet distance, precision and recall, score of class probabilities."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from mebm.data.moments import is_symmetric, negative_variance
from mebm.errors import MetricError

SAME = 1e-12  # of |a|^2 + |b|^2: features that are closer are of one image, computed in batches that round otherwise
BLOCK = 2**23  # distances that are held at a time, 64 MB in float64


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """|mean1 - mean2|^2 + tr(cov1 + cov2 - 2 (cov1 cov2)^(1/2)), never negative, exactly 0 for equal statistics.

    means [D], covariances [D, D], symmetric; computed in float64. With R1, R2 such that cov = R R', the trace is the
    sum of the singular values of R1' R2 (Dowson and Landau 1982; Heusel et al. 2017). Where both covariances have full
    rank, R is a Cholesky factor and the values come from one symmetric eigenvalue problem, which is fastest; where not,
    from eigenvectors and a singular value decomposition without squaring: fewer images than dimensions leave
    eigenvalues at rounding level, whose roots would otherwise count. Raises MetricError for shapes that do not fit,
    values that are not finite, and a matrix that is no covariance.
    """
    mean1, cov1, mean2, cov2 = (torch.as_tensor(a, dtype=torch.float64).cpu() for a in (mean1, cov1, mean2, cov2))
    if mean1.shape != mean2.shape or cov1.shape != cov2.shape or cov1.shape != (len(mean1),) * 2:
        raise MetricError(
            f"feature statistics of shapes {list(mean1.shape)}, {list(cov1.shape)} and {list(mean2.shape)}, "
            f"{list(cov2.shape)} do not compare; they come from different networks"
        )
    if not all(bool(torch.isfinite(a).all()) for a in (mean1, cov1, mean2, cov2)):
        raise MetricError("feature statistics are not finite; at least two images and finite pixels are needed")
    roots = _root(cov1), _root(cov2)
    if torch.equal(mean1, mean2) and torch.equal(cov1, cov2):
        return 0.0
    product = roots[0].T @ roots[1]
    if product.shape == cov1.shape:
        trace_root = torch.linalg.eigvalsh(product @ product.T).clamp(min=0).sqrt().sum()
    else:
        trace_root = torch.linalg.svdvals(product).sum()
    distance = (mean1 - mean2).square().sum() + cov1.trace() + cov2.trace() - 2 * trace_root
    return max(float(distance), 0.0)


def _root(cov: Tensor) -> Tensor:
    """R [D, rank] with R R' = cov, without the directions whose variance is rounding error.

    Raises MetricError for a matrix that is no covariance.
    """
    fault = "" if is_symmetric(cov) else "it is not symmetric"  # decompositions read one half
    limit = len(cov) * torch.finfo(cov.dtype).eps
    factor, failed = torch.linalg.cholesky_ex(cov)
    if not fault and not failed and bool(factor.diagonal().square().min() > limit * cov.diagonal().max()):
        return factor
    values, vectors = torch.linalg.eigh(cov)
    if fault := fault or negative_variance(values):
        raise MetricError(f"feature statistics hold a matrix that is no covariance: {fault}; compute them again")
    kept = values > values[-1].clamp(min=0) * limit
    return vectors[:, kept] * values[kept].sqrt()


def precision_recall(real: Tensor, generated: Tensor, k: int) -> tuple[float, float]:
    """Improved precision and recall (Kynkäänniemi et al. 2019) of features [N, D] and [M, D]: shares in [0, 1].

    docs/method.md, Precision and recall. precision: share of the generated images that lie in a ball around some real
    image which reaches to its k-th nearest other real one. recall: the same with the sets exchanged. Several copies of
    one image are others to each other, at distance 0. Both shares depend on N and M, so that they compare only between
    sets of the same sizes. In float64, on the features' device, never with all distances in memory. Raises MetricError
    for features of different networks, values that are not finite, and a set of no more than k images.
    """
    if real.ndim != 2 or generated.ndim != 2 or real.shape[1] != generated.shape[1]:
        shapes = f"{list(real.shape)} and {list(generated.shape)}"
        raise MetricError(f"features of shapes {shapes} do not compare; they come from different networks")
    if not all(bool(torch.isfinite(features).all()) for features in (real, generated)):
        raise MetricError("features are not finite, so they have no distance")
    if (n := min(len(real), len(generated))) <= k:
        raise MetricError(f"among {n} images none has {k} others as neighbours; lower quality.neighbours")
    real, generated = real.double(), generated.double()
    reach, own_reach = _reach(real, k), _reach(generated, k)
    inside, covered, start = 0, torch.zeros(len(real), dtype=torch.bool, device=real.device), 0
    for squared in _squared_distances(generated, real):
        inside += int((squared <= reach).any(dim=1).sum())
        covered |= (squared <= own_reach[start : start + len(squared), None]).any(dim=0)
        start += len(squared)
    return inside / len(generated), int(covered.sum()) / len(real)


def _reach(features: Tensor, k: int) -> Tensor:
    """Squared distance of each row to its k-th nearest other row, [N]."""
    found, start = [], 0
    for squared in _squared_distances(features, features):
        rows = torch.arange(len(squared), device=squared.device)
        squared[rows, start + rows] = torch.inf
        found.append(squared.topk(k, dim=1, largest=False).values[:, -1])
        start += len(squared)
    return torch.cat(found)


def _squared_distances(rows: Tensor, others: Tensor) -> Iterator[Tensor]:
    """Squared Euclidean distances [n, M] of some rows at a time to all others [M, D], float64, exactly 0 for copies."""
    norms = others.square().sum(1)
    for some in rows.split(max(1, BLOCK // len(others))):
        own = some.square().sum(1, keepdim=True)
        squared = torch.addmm(norms, some, others.T, alpha=-2).add_(own)
        yield squared.masked_fill_(squared <= SAME * (norms + own), 0)


def inception_style_score(
    logits: np.ndarray | Tensor, splits: int, permutation_seed: int | None = None
) -> tuple[float, float]:
    """exp of the mean KL divergence from each image's class distribution to that of its split: mean and std (ddof 0).

    logits: [N, n_classes]. Rows are permuted by numpy's RandomState(permutation_seed) first, so that the order of the
    images does not matter beyond that fixed permutation; None keeps the order. Split i holds rows floor(i N / splits)
    to floor((i + 1) N / splits). With an Inception network's logits this is the Inception score (Salimans et al.
    2016). Raises MetricError for fewer images than splits or logits that are not finite.
    """
    logits = torch.as_tensor(logits).to(torch.float64).cpu()
    n = len(logits)
    if n < splits:
        raise MetricError(f"{n} images cannot be split into {splits} parts; lower quality.score_splits")
    if not bool(torch.isfinite(logits).all()):
        raise MetricError("class logits are not finite")
    if permutation_seed is not None:
        logits = logits[torch.from_numpy(np.random.RandomState(permutation_seed).permutation(n))]
    log_p = logits.log_softmax(dim=1)
    scores = []
    for i in range(splits):
        part = log_p[i * n // splits : (i + 1) * n // splits]
        p = part.exp()
        # p log p is 0 at p = 0, but log p is -inf there
        log_marginal = p.mean(0).log()
        terms = torch.where(p > 0, p * (part - log_marginal), torch.zeros_like(p))
        scores.append(terms.sum(1).mean().exp())
    scores = torch.stack(scores)
    return float(scores.mean()), float(scores.std(correction=0))
