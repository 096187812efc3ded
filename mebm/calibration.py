"""Calibration of class probabilities: errors between confidence and accuracy, and temperature scaling.

Everything is a fraction in [0, 1] or in nats. Confidence is the largest class probability. ECE (Guo et al. 2017):
sum over bins of (share of images in the bin) |accuracy - mean confidence|, bins of equal width; adaptive ECE the same
with bins that hold equally many images (Nixon et al. 2019).
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from mebm.errors import MetricError


def bins_of(confidence: np.ndarray, n_bins: int, adaptive: bool) -> np.ndarray:
    """Number of the bin, from 0, of each confidence [N] in [0, 1]; a value on an edge belongs to the lower bin."""
    if adaptive:
        rank = confidence.argsort(kind="stable").argsort(kind="stable")
        return rank * n_bins // len(confidence)
    return np.clip(np.ceil(confidence * n_bins).astype(int) - 1, 0, n_bins - 1)


def reliability(logits: np.ndarray, labels: np.ndarray, n_bins: int, adaptive: bool = False) -> dict[str, np.ndarray]:
    """For each bin that holds images: `share` of all images, `confidence` and `accuracy`, means over the bin."""
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    if not np.isfinite(logits).all():
        raise MetricError("class logits are not finite")
    confidence, correct = np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == labels
    index = bins_of(confidence, n_bins, adaptive)
    count = np.bincount(index, minlength=n_bins)
    filled = count > 0
    return {
        "share": count[filled] / len(labels),
        "confidence": np.bincount(index, confidence, n_bins)[filled] / count[filled],
        "accuracy": np.bincount(index, correct, n_bins)[filled] / count[filled],
    }


def expected_error(logits: np.ndarray, labels: np.ndarray, n_bins: int, adaptive: bool = False) -> float:
    """ECE, or adaptive ECE, a fraction."""
    bins = reliability(logits, labels, n_bins, adaptive)
    return float((bins["share"] * np.abs(bins["accuracy"] - bins["confidence"])).sum())


def scores(logits: np.ndarray, labels: np.ndarray, n_bins: int) -> dict[str, float]:
    """accuracy, ece, adaptive_ece, nll (nats), brier (sum over classes of squared errors, 0 to 2), mean confidence."""
    log_p = log_softmax(logits.astype(np.float64), axis=1)
    p = np.exp(log_p)
    one_hot = np.eye(logits.shape[1])[labels]
    return {
        "accuracy": float((log_p.argmax(axis=1) == labels).mean()),
        "confidence": float(p.max(axis=1).mean()),
        "ece": expected_error(logits, labels, n_bins),
        "adaptive_ece": expected_error(logits, labels, n_bins, adaptive=True),
        "nll": float(-log_p[np.arange(len(labels)), labels].mean()),
        "brier": float(((p - one_hot) ** 2).sum(axis=1).mean()),
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T > 0 for which logits / T have the smallest mean cross-entropy, within [0.01, 100]."""

    def loss(log_t: float) -> float:
        log_p = log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1)
        return float(-log_p[np.arange(len(labels)), labels].mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log([0.01, 100]), method="bounded").x))
