"""The backbone: a pre-activation Wide ResNet from images to features. It knows nothing of energies."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mebm.errors import ParamsError

LEAK = 0.2
BATCH_NORM_MOMENTUM = 0.9  # PyTorch's sense: running = 0.1 old + 0.9 batch (docs/method.md, Energy network)


class ActNorm(nn.Module):
    """Scale and shift per channel, set from the first training batch to give zero mean and unit variance."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.initialised = False  # on the host, so that asking costs no device synchronisation

    def get_extra_state(self) -> dict:
        return {"initialised": self.initialised}

    def set_extra_state(self, state: dict) -> None:
        self.initialised = bool(state["initialised"])

    def forward(self, x: Tensor) -> Tensor:
        if not self.initialised and self.training:
            with torch.no_grad():
                std, mean = torch.std_mean(x, dim=(0, 2, 3))
                self.weight.copy_(1 / (std + 1e-6))
                self.bias.copy_(-mean * self.weight)
            self.initialised = True
        return x * self.weight[:, None, None] + self.bias[:, None, None]


NORMS = {
    "batch": lambda channels: nn.BatchNorm2d(channels, momentum=BATCH_NORM_MOMENTUM),
    "none": lambda channels: nn.Identity(),
    "instance": lambda channels: nn.InstanceNorm2d(channels, affine=True),
    "layer": lambda channels: nn.GroupNorm(1, channels),
    "actnorm": ActNorm,
}


def batch_norms(model: nn.Module) -> list[nn.Module]:
    """The model's layers with running averages."""
    return [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def running_averages_kept(model: nn.Module) -> Iterator[None]:
    """Inside, BatchNorm in training mode normalises by each batch's own statistics and leaves its averages alone.

    It does not see them: averaging with weight 0 would spread values that are not finite.
    """
    layers = batch_norms(model)
    tracked = [layer.track_running_stats for layer in layers]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer, track in zip(layers, tracked, strict=True):
            layer.track_running_stats = track


def activated(norm: nn.Module, x: Tensor) -> Tensor:
    """LeakyReLU of the normalised x."""
    return F.leaky_relu(norm(x), LEAK)


class Block(nn.Module):
    """norm, LeakyReLU, conv, dropout, norm, LeakyReLU, conv (which carries the stride), plus shortcut."""

    def __init__(self, in_channels: int, channels: int, stride: int, norm: str, dropout: float):
        super().__init__()
        self.bn1 = NORMS[norm](in_channels)
        self.conv1 = nn.Conv2d(in_channels, channels, 3, padding=1)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.bn2 = NORMS[norm](channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)
        self.shortcut = nn.Sequential()
        if stride != 1 or in_channels != channels:
            self.shortcut.append(nn.Conv2d(in_channels, channels, 1, stride=stride))

    def forward(self, x: Tensor) -> Tensor:
        h = self.dropout(self.conv1(activated(self.bn1, x)))
        return self.conv2(activated(self.bn2, h)) + self.shortcut(x)


class WideResNet(nn.Module):
    """Wide ResNet of depth 6n+4 and a width factor, pre-activation, every convolution with a bias.

    Stages of n blocks with 16, 32, 64 times `width` channels and strides 1, 2, 2; a fourth of 128 times `width`,
    stride 2, for images of 64 pixels and more. Input [B, C, H, W] in [-1, 1]; output features [B, n_features].
    Raises ParamsError for a depth that is not 6n+4.
    """

    def __init__(
        self, channels: int, image_size: int, depth: int, width: int, norm: str = "batch", dropout: float = 0.0
    ):
        super().__init__()
        if depth < 10 or (depth - 4) % 6:
            raise ParamsError(f"train.depth is {depth}, expected 6n + 4 (10, 16, 22, 28, ...)")
        self.conv1 = nn.Conv2d(channels, 16, 3, padding=1)
        in_channels = 16
        self.n_stages = 4 if image_size >= 64 else 3
        for stage in range(self.n_stages):
            out_channels = 16 * 2**stage * width
            blocks = []
            for index in range((depth - 4) // 6):
                stride = 2 if stage and index == 0 else 1
                blocks.append(Block(in_channels, out_channels, stride, norm, dropout))
                in_channels = out_channels
            self.add_module(f"layer{stage + 1}", nn.Sequential(*blocks))
        self.bn1 = NORMS[norm](in_channels)
        self.n_features = in_channels

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(x)
        for stage in range(self.n_stages):
            h = self.get_submodule(f"layer{stage + 1}")(h)
        return activated(self.bn1, h).mean(dim=(2, 3))
