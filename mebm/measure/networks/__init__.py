"""Networks in whose features quality is measured: one module per network, found by the name in `features.network`.

A module holds the names of its metrics as plain constants, which tables read without importing it: DISTANCE, SCORE
and SCORE_STD. They are its own, so that nobody takes one network's numbers for another's. It has two functions:
`make`, from the settings to a network and what features.json says of it, and `rebuild`, from what features.pt holds
to the network. Networks are modules of torch as `FeatureNetwork` describes them. docs/extending.md adds one.
"""

from types import ModuleType
from typing import Any, Protocol

from torch import Tensor

from mebm.registry import Registry

NETWORKS = Registry("mebm.measure.networks")


class FeatureNetwork(Protocol):
    """Called with images as bytes, uint8 [B, C, H, W], a network gives features [B, n_features] and logits.

    title: in captions; preprocessing: statistics of another one are refused; weights_sha256: of the published file,
    None for a network that is trained here; channels: of the images that it takes, None for 1 or 3; knows_classes:
    whether its logits are of the data set's own classes; accuracy: share of held-out images that it then classifies
    correctly, None where that is not known.
    """

    title: str
    n_features: int
    preprocessing: str
    weights_sha256: str | None
    channels: int | None
    knows_classes: bool
    accuracy: float | None

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]: ...

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """What `rebuild` needs: plain values, and weights, which it finds under `model_state_dict`."""


def module(name: str) -> ModuleType:
    """The module of a network. Raises KeyError for a name that is none."""
    return NETWORKS.module(name)


def name_of(network: FeatureNetwork) -> str:
    """The name under which the registry has a network."""
    return type(network).__module__.rpartition(".")[2]


def metrics_of(network: FeatureNetwork) -> tuple[str, str, str]:
    """Names of a network's distance, its score, and the score's standard deviation."""
    found = module(name_of(network))
    return found.DISTANCE, found.SCORE, found.SCORE_STD
