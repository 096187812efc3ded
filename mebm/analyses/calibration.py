"""Calibration of class probabilities: errors between confidence and accuracy, and temperature scaling.

Everything is a fraction in [0, 1] or in nats. Confidence is the largest class probability. ECE (Guo et al. 2017):
sum over bins of (share of images in the bin) |accuracy - mean confidence|, bins of equal width; adaptive ECE the same
with bins that hold equally many images (Nixon et al. 2019). Logits are [N, n_classes], labels int [N] in
[0, n_classes). Every function raises MetricError for other labels, no images, and logits that are not finite.
"""

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from mebm.errors import MetricError

TEMPERATURES = (0.01, 100.0)  # between which one is sought


def bins_of(confidence: np.ndarray, n_bins: int, adaptive: bool) -> np.ndarray:
    """Number of the bin, from 0, of each confidence [N] in [0, 1].

    Bins of equal width hold their upper edge. Adaptive bins cut the ranking, ties in the order in which they stand.
    """
    if adaptive:
        rank = confidence.argsort(kind="stable").argsort(kind="stable")
        return rank * n_bins // len(confidence)
    return np.searchsorted(np.arange(1, n_bins) / n_bins, confidence, side="left")


def reliability(logits: np.ndarray, labels: np.ndarray, n_bins: int, adaptive: bool = False) -> dict[str, np.ndarray]:
    """For each bin that holds images its number, `bin`, their `share` of all, and mean `confidence` and `accuracy`."""
    log_p = _log_probabilities(logits, labels)
    confidence, correct = np.exp(log_p.max(axis=1)), (log_p.argmax(axis=1) == labels).astype(float)
    index = bins_of(confidence, n_bins, adaptive)
    if adaptive:  # each of several equal confidences counts as their mean, so that the images' order does not matter
        _, tied = np.unique(confidence, return_inverse=True)
        correct = (np.bincount(tied, correct) / np.bincount(tied))[tied]
    count = np.bincount(index, minlength=n_bins)
    filled = count > 0
    return {
        "bin": filled.nonzero()[0],
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
    log_p = _log_probabilities(logits, labels)
    p = np.exp(log_p)
    one_hot = np.eye(logits.shape[1])[labels]
    return {
        "accuracy": float((log_p.argmax(axis=1) == labels).mean()),
        "confidence": float(p.max(axis=1).mean()),
        "ece": expected_error(logits, labels, n_bins),
        "adaptive_ece": expected_error(logits, labels, n_bins, adaptive=True),
        "nll": _cross_entropy(log_p, labels),
        "brier": float(((p - one_hot) ** 2).sum(axis=1).mean()),
    }


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """The T in `TEMPERATURES` for which logits / T have the smallest mean cross-entropy (Guo et al. 2017).

    The cross-entropy is convex in 1 / T. Raises MetricError where it has no minimum, because it only falls: towards
    T = 0 if no image is classified wrongly, without end if the logits say no more than equal probabilities.
    """
    _check(logits, labels)
    own = logits[np.arange(len(labels)), labels]
    if (own >= logits.max(axis=1)).all():
        raise MetricError("no temperature is best: every image is classified correctly")
    if own.mean(dtype=np.float64) <= logits.mean(dtype=np.float64):
        raise MetricError("no temperature is best: the logits are no better than equal probabilities")

    def loss(log_t: float) -> float:
        return _cross_entropy(log_softmax(logits.astype(np.float64) / np.exp(log_t), axis=1), labels)

    fitted = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(fitted.x))


def _check(logits: np.ndarray, labels: np.ndarray) -> None:
    if not len(logits):
        raise MetricError("there are no images")
    if labels.shape != logits.shape[:1]:
        raise MetricError(f"{labels.shape} labels for logits of shape {logits.shape}, expected one for each image")
    if not np.isfinite(logits).all():
        raise MetricError("class logits are not finite")
    if labels.min() < 0 or labels.max() >= logits.shape[1]:
        raise MetricError(f"labels from {labels.min()} to {labels.max()} do not fit {logits.shape[1]} classes")


def _log_probabilities(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    _check(logits, labels)
    return log_softmax(logits.astype(np.float64), axis=1)


def _cross_entropy(log_p: np.ndarray, labels: np.ndarray) -> float:
    return float(-log_p[np.arange(len(labels)), labels].mean())
