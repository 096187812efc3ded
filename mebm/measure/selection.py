"""From a trained model to the images that are scored: the replay buffer, whole or selected by class."""

import math

import torch
from torch import Tensor

from mebm.errors import MetricError
from mebm.measure.evaluation import score
from mebm.method.energy import EnergyModel

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


def select(protocol: str, probabilities: Tensor, keep_ratio: float, head_is_trained: bool) -> tuple[Tensor, dict]:
    """Indices of the images that a protocol scores, and its conditions for the record.

    "full": the whole buffer, pixels rounded to the nearest byte. "release": what the public release does, pixels
    truncated and, where there are classes, `keep_ratio` of each predicted class of the first 10,000 images; it asks
    for that even of a class head that was never trained, which the conditions then say. Nothing else selects by class.
    """
    if protocol == "full":
        return torch.arange(len(probabilities)), {"rounding": "nearest", "selection": None, "keep_ratio": None}
    considered = probabilities[:RELEASE_IMAGES]
    if probabilities.shape[1] < 2:
        return torch.arange(len(considered)), {"rounding": "truncate", "selection": None, "keep_ratio": None}
    by = "class head" if head_is_trained else "untrained class head"
    conditions = {"rounding": "truncate", "selection": f"by confidence of the {by}", "keep_ratio": keep_ratio}
    return select_by_class(considered, keep_ratio), conditions


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
