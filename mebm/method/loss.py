"""The objective's terms, each returned by name, and their sum (docs/method.md, Objective)."""

import torch.nn.functional as F
from torch import Tensor


def generative_terms(energy_pos: Tensor, energy_neg: Tensor, l2_coeff: float) -> dict[str, Tensor]:
    """Terms of L = (mean E(x+) - mean E(x-)) + l2_coeff (mean E(x+)^2 + (mean E(x-))^2).

    energy_pos, energy_neg: [B]. The regulariser is not symmetric, as published: the mean of squares on data, the
    square of the mean on samples. Returns scalars `energy_gap`, `energy_l2` and `loss_px`.
    """
    energy_gap = energy_pos.mean() - energy_neg.mean()
    energy_l2 = energy_pos.square().mean() + energy_neg.mean().square()
    return {"energy_gap": energy_gap, "energy_l2": energy_l2, "loss_px": energy_gap + l2_coeff * energy_l2}


def classification_term(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy of class logits [B, n_classes] against labels [B], a scalar."""
    return F.cross_entropy(logits.float() if logits.dtype.itemsize < 4 else logits, labels)
