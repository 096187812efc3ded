"""From a trained model to the images that are scored: the replay buffer, whole or selected by class."""

import math

import torch
from torch import Tensor

from mebm.errors import MetricError
from mebm.measure.evaluation import score
from mebm.method.energy import EnergyModel
from mebm.settings.schema import release_ratio

RELEASE_IMAGES = 10_000  # the release's buffer, which is what it scores


def class_probabilities(model: EnergyModel, x: Tensor, batch_size: int) -> Tensor:
    """Softmax of the class head, [N, n_classes], for images [N, C, H, W] in [-1, 1].

    With running BatchNorm statistics: the release's sampler leaves the model in training mode, so that its ranking
    depends on how images were batched. Raises MetricError for a probability that is not finite.
    """
    return _finite(score(model, x, batch_size).logits.softmax(dim=1))


def _finite(probabilities: Tensor) -> Tensor:
    """The same; an image without a probability would be of class 0, and rank above all others."""
    if lost := int((~torch.isfinite(probabilities)).any(dim=1).sum()):
        raise MetricError(
            f"class probabilities of {lost} of {len(probabilities)} images are not finite; the run's weights have "
            "diverged, so there is nothing to select by"
        )
    return probabilities


def classify(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Predicted class, int64 [N], and its probability, float64 [N], from class logits [N, n_classes].

    In float64, because in float32 most probabilities of a good classifier are the same 1. Raises MetricError for
    logits that are not finite.
    """
    if not bool(logits.isfinite().all()):
        raise MetricError("class logits of the replay buffer are not finite; the run's weights have diverged")
    probability, predicted = logits.double().softmax(dim=1).max(dim=1)
    return predicted, probability


def select(protocol: str, probabilities: Tensor, head_is_trained: bool) -> tuple[Tensor, dict]:
    """Indices of the images that a protocol scores, and its conditions for the record.

    docs/method.md, Selection by class. "full": the whole buffer in its own order, pixels rounded to the nearest byte.
    "release_RATIO": what the public release does with that ratio, to the first 10,000 images: `select_by_class`, pixels
    truncated. It does so even by a class head that was never trained, which the conditions then say. Nothing else
    selects by class.
    """
    ratio = release_ratio(protocol)
    if ratio is None:
        conditions = {"selection": None, "order": "of the buffer", "rounding": "nearest", "keep_ratio": None}
        return torch.arange(len(probabilities)), conditions | {"n_considered": len(probabilities)}
    considered = probabilities[:RELEASE_IMAGES]
    by = "class head" if head_is_trained else "untrained class head"
    conditions = {"selection": f"by confidence of the {by}", "order": "class by class, most confident first"}
    conditions |= {"rounding": "truncate", "keep_ratio": ratio, "n_considered": len(considered)}
    return select_by_class(considered, ratio), conditions


def select_by_class(probabilities: Tensor, keep_ratio: float) -> Tensor:
    """Indices of the images to keep, class by class, by falling largest probability.

    docs/method.md, Selection by class. probabilities: [N, n_classes]. Of n images predicted as a class, keep_ratio < 1
    keeps floor(n keep_ratio), and keep_ratio >= 1 keeps floor(keep_ratio) at most. Equal probabilities keep the order
    of the images. Raises MetricError for a probability that is not finite.
    """
    confidence, predicted = _finite(probabilities).max(dim=1)
    kept = []
    for label in range(probabilities.shape[1]):
        members = (predicted == label).nonzero().squeeze(1)
        ranked = members[confidence[members].argsort(descending=True, stable=True)]
        n = math.floor(len(members) * keep_ratio) if keep_ratio < 1 else min(math.floor(keep_ratio), len(members))
        kept.append(ranked[:n])
    return torch.cat(kept)
