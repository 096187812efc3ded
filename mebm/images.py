"""Pictures of images: grids as PNG."""

from pathlib import Path

import torch
from torch import Tensor
from torchvision.utils import make_grid

from mebm.files import replacing


def save_grid(path: str | Path, images: Tensor, columns: int, scale: int = 2) -> None:
    """Write images (uint8 [N, C, H, W]) as a grid with `columns` a row, every pixel a square of `scale` pixels."""
    from PIL import Image

    grid = make_grid(images, nrow=columns, padding=1, pad_value=128)
    grid = grid.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2)
    with replacing(path) as temporary:
        Image.fromarray(grid.permute(1, 2, 0).to(torch.uint8).numpy()).save(temporary, format="PNG")
