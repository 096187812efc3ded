"""From a trained model to the images that are scored: the replay buffer, whole or selected by class."""

import math

import torch
from torch import Tensor

from mebm.energy import EnergyModel


@torch.no_grad()
def class_probabilities(model: EnergyModel, x: Tensor, batch_size: int) -> Tensor:
    """Softmax of the class head, [N, n_classes], for images [N, C, H, W] in [-1, 1].

    The model must be in evaluation mode: the release's sampler leaves it in training mode, so that its ranking
    depends on how images were batched.
    """
    if model.training:
        raise ValueError("the model is in training mode")
    device = next(model.parameters()).device
    return torch.cat([model.logits(batch.to(device)).softmax(dim=1).cpu() for batch in x.split(batch_size)])


def select_by_class(probabilities: Tensor, keep_ratio: float) -> Tensor:
    """Indices of the images to keep, class by class, by falling largest probability (METHOD: FID and IS).

    probabilities: [N, n_classes]. Of n images predicted as a class, keep_ratio < 1 keeps floor(n keep_ratio), and
    keep_ratio >= 1 keeps floor(keep_ratio) at most. Equal probabilities keep the order of the images.
    """
    confidence, predicted = probabilities.max(dim=1)
    kept = []
    for label in range(probabilities.shape[1]):
        members = (predicted == label).nonzero().squeeze(1)
        ranked = members[confidence[members].argsort(descending=True, stable=True)]
        n = math.floor(len(members) * keep_ratio) if keep_ratio < 1 else min(math.floor(keep_ratio), len(members))
        kept.append(ranked[:n])
    return torch.cat(kept)
