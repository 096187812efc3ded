"""Grids of images."""

import numpy as np
import pytest
import torch
import torchvision.utils
from PIL import Image

from mebm.figures.grids import make_grid, save_grid, save_image


@pytest.mark.parametrize(("n", "channels", "columns"), [(7, 1, 3), (12, 3, 4), (2, 3, 10), (1, 1, 1)])
def test_the_layout_is_torchvisions(n, channels, columns):
    images = torch.randint(0, 256, (n, channels, 5, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    expected = torchvision.utils.make_grid(images, nrow=columns, padding=1, pad_value=128)
    assert n == 1 or torch.equal(make_grid(images, columns), expected)  # of one image torchvision makes no grid
    assert make_grid(images, columns)[:, 1:6, 1:7].equal(images[0].expand(3, -1, -1))


def test_every_pixel_is_a_square(tmp_path):
    images = torch.arange(8).reshape(2, 1, 2, 2).to(torch.uint8)
    save_grid(tmp_path / "grid.png", images, 2, scale=3)
    picture = np.asarray(Image.open(tmp_path / "grid.png"))
    assert picture.shape == (4 * 3, 7 * 3, 3)
    assert (picture[3:6, 3:6] == 0).all()
    assert (picture[6:9, 6:9] == 3).all()
    assert (picture[:3] == 128).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_single_image_is_written_pixel_by_pixel(tmp_path, channels):
    image = torch.randint(0, 256, (channels, 5, 5), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    save_image(tmp_path / "image.png", image)
    picture = np.asarray(Image.open(tmp_path / "image.png"))
    assert np.array_equal(np.atleast_3d(picture).transpose(2, 0, 1), image.numpy())
