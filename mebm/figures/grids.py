"""Pictures of images as PNG: grids, and single ones."""

from pathlib import Path

import torch
from torch import Tensor

from mebm.files import replacing


def make_grid(images: Tensor, columns: int) -> Tensor:
    """Images (uint8 [N, C, H, W]) in rows of `columns` with grey lines between: uint8 [3, height, width].

    The same as torchvision's, whose import costs every stage two seconds.
    """
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    grid = torch.full((channels, rows * (height + 1) + 1, columns * (width + 1) + 1), 128, dtype=torch.uint8)
    for index, image in enumerate(images):
        top, left = index // columns * (height + 1) + 1, index % columns * (width + 1) + 1
        grid[:, top : top + height, left : left + width] = image
    return grid.expand(3, -1, -1)


def save_grid(path: str | Path, images: Tensor, columns: int, scale: int = 2) -> None:
    """Write images (uint8 [N, C, H, W]) as a grid with `columns` a row, every pixel a square of `scale` pixels."""
    save_image(path, make_grid(images, columns).repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2))


def save_image(path: str | Path, image: Tensor) -> None:
    """Write one image (uint8 [C, H, W], C 1 or 3) as PNG, pixel by pixel."""
    from PIL import Image

    pixels = image.permute(1, 2, 0).contiguous().numpy()
    with replacing(path) as temporary:
        Image.fromarray(pixels[:, :, 0] if len(image) == 1 else pixels).save(temporary, format="PNG")
