"""Images made smaller and larger by whole blocks of pixels."""

import torch.nn.functional as F
from torch import Tensor


def block_mean(x: Tensor, block: int) -> Tensor:
    """Mean of each block x block square: [N, C, H, W] to [N, C, H/block, W/block]."""
    return x if block == 1 else F.avg_pool2d(x, block)


def block_repeat(x: Tensor, block: int) -> Tensor:
    """Repeat every pixel over a block x block square: [N, C, h, w] to [N, C, h*block, w*block]."""
    return x if block == 1 else x.repeat_interleave(block, dim=2).repeat_interleave(block, dim=3)
