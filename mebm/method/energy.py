"""The energy-based model: energies and class logits on one backbone.

The sign convention is stated here, once: `energy` E(x) is LOW on data, p(x) is proportional to exp(-E(x)). The
paper and its release work with f = -E, high on data.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from mebm.method.wideresnet import WideResNet

ARCHITECTURE = ("depth", "width", "head", "norm", "dropout")  # the settings that `build_model` takes
HEADS = ("energy", "logsumexp")


class EnergyModel(nn.Module):
    """Energy E(x) [B] and class logits [B, n_classes] from one Wide ResNet.

    head: "energy" takes E = -(w.h + b) from a linear head (M-EBM, M-JEM); "logsumexp" takes E = -logsumexp of the
    class logits (JEM). Without labels n_classes is 1 and the class head stays as it was initialised.
    """

    def __init__(self, backbone: WideResNet, n_classes: int, head: str = "energy"):
        super().__init__()
        if head not in HEADS:
            raise ValueError(f"head {head!r} is not one of {HEADS}")
        self.backbone = backbone
        self.head = head
        self.energy_head = nn.Linear(backbone.n_features, 1)
        self.class_head = nn.Linear(backbone.n_features, max(n_classes, 1))

    def features(self, x: Tensor) -> Tensor:
        """Features h, [B, n_features], of images [B, C, H, W] in [-1, 1]."""
        return self.backbone(x.contiguous(memory_format=torch.channels_last))

    def energy(self, x: Tensor) -> Tensor:
        """E(x), [B], low on data."""
        return self.energy_of(self.features(x))

    def logits(self, x: Tensor) -> Tensor:
        """Unnormalised log-probabilities of the classes, [B, n_classes]."""
        return self.class_head(self.features(x))

    def energy_of(self, features: Tensor) -> Tensor:
        """E from features; float32 or wider even under autocast, since energies are differences of large sums."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.to(self.energy_head.weight.dtype)
            if self.head == "logsumexp":
                return -self.class_head(features).logsumexp(dim=1)
            return -self.energy_head(features).squeeze(1)

    def forward(self, x: Tensor) -> Tensor:
        """The same as `energy`."""
        return self.energy(x)

    @contextmanager
    def frozen_weights(self) -> Iterator[None]:
        """Inside, weights ask for no gradient: SGLD needs only the gradient with respect to images."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        for p in trainable:
            p.requires_grad_(False)
        try:
            yield
        finally:
            for p in trainable:
                p.requires_grad_(True)


def build_model(
    shape: tuple[int, int, int],
    n_classes: int,
    *,
    depth: int,
    width: int,
    head: str = "energy",
    norm: str = "batch",
    dropout: float = 0.0,
) -> EnergyModel:
    """An EnergyModel for images of `shape` (C, H, W), initialised as PyTorch does, weights in channels_last.

    Weights come from the global generator: seed it, or load a state dict, for a known model.
    """
    channels, size, _ = shape
    backbone = WideResNet(channels, size, depth, width, norm, dropout)
    return EnergyModel(backbone, n_classes, head).to(memory_format=torch.channels_last)
