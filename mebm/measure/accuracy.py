"""How well a classifier does: accuracy and loss from its logits."""

import torch
from torch import Tensor

from mebm.errors import MetricError


def accuracy_and_loss(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Share of correct classes, in [0, 1], and the mean cross-entropy in nats, of logits [N, n_classes]."""
    logits = logits.to(torch.float64)
    if not bool(torch.isfinite(logits).all()):
        raise MetricError("class logits are not finite")
    correct = (logits.argmax(1) == labels).double().mean()
    return float(correct), float(torch.nn.functional.cross_entropy(logits, labels))
