"""Where chains start: a Gaussian fitted to the images, one for each class, or uniform noise.

docs/method.md, Initial distribution.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mebm.data.blocks import block_mean, block_repeat
from mebm.data.images import bytes_to_unit
from mebm.data.moments import StreamingMoments, is_symmetric
from mebm.errors import DataError
from mebm.files import numbers, read_npz


def block_size(image_size: int) -> int:
    """Side of the blocks over whose means the Gaussian is fitted (docs/method.md, Initial distribution).

    1 below 64 pixels, 2 for 64 to 99, 4 for 100 to 256, 8 up to 512, 16 up to 1024, and 1 above as in the release.
    """
    limits = ((63, 1), (99, 2), (256, 4), (512, 8), (1024, 16))
    return next((block for limit, block in limits if image_size <= limit), 1)


def _blocks(image_size: int) -> tuple[int, int]:
    """(block side, blocks along a side). Raises DataError where blocks do not tile the image."""
    block = block_size(image_size)
    if image_size % block:
        raise DataError(f"images of {image_size} pixels cannot be split into blocks of {block}; resize the data set")
    return block, image_size // block


def fit_gaussian(images: Tensor, batch_size: int = 1000) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] (divided by N) of block means of images, float64, D = C*h*w.

    images: uint8 [N, C, H, W]. No augmentation. Never more than `batch_size` images exist as floats; without blocks, on
    a CPU, none: sums and products of bytes are integers, which is exact and several times faster.
    """
    block, _ = _blocks(images.shape[-1])
    if block == 1 and images.device.type == "cpu":
        return _moments_of_bytes(images)
    moments = None
    for batch in images.split(batch_size):
        rows = block_mean(bytes_to_unit(batch, torch.float64), block).flatten(1)
        moments = moments or StreamingMoments(rows.shape[1], images.device)
        moments.update(rows)
    return moments.mean, moments.covariance()


def fit_classes(images: Tensor, labels: Tensor, n_classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Means [K, D], covariances [K, D, D] (float32: they are large) and shares [K] of each class's images.

    images: uint8 [N, C, H, W]; labels: int64 [N]. Raises DataError for a class without images.
    """
    counts = torch.bincount(labels, minlength=n_classes)
    if not bool((counts > 0).all()):
        raise DataError(f"class {int(counts.argmin())} has no training images, so it has no Gaussian of its own")
    means, covs = zip(*(fit_gaussian(images[labels == label]) for label in range(n_classes)), strict=True)
    return torch.stack(means), torch.stack([cov.float() for cov in covs]), counts.double() / len(labels)


def _moments_of_bytes(images: Tensor, batch_size: int = 20_000) -> tuple[Tensor, Tensor]:
    """Mean and covariance of bytes scaled to [-1, 1], from integer sums and products of p - 128."""
    dimension = images[0].numel()
    total = torch.zeros(dimension, dtype=torch.int64)
    products = torch.zeros(dimension, dimension, dtype=torch.int64)
    for batch in images.split(batch_size):  # 20,000 products of at most 2^14 stay below 2^31
        rows = (batch.flatten(1) ^ 128).view(torch.int8)
        total += rows.sum(0, dtype=torch.int64)
        products += torch._int_mm(rows.T.contiguous(), rows)
    mean = total.double() / len(images)
    cov = (products.double() / len(images)).addr_(mean, mean, alpha=-1)
    return (mean + 128) / 127.5 - 1, cov / 127.5**2


@dataclass
class GaussianInit:
    """Draws clip(mean + L z, -1, 1), L the Cholesky factor of cov + ridge I, scaled up by repeating blocks.

    mean: [D]; factor: [D, D], lower; shape: (C, H, W) of a draw.
    """

    mean: Tensor
    factor: Tensor
    shape: tuple[int, int, int]

    @classmethod
    def from_moments(cls, mean: Tensor, cov: Tensor, shape: tuple[int, int, int], ridge: float) -> "GaussianInit":
        """Factor the covariance once, in float64.

        Raises DataError where sizes do not fit `shape`, a value is not finite, or cov + ridge I is not symmetric and
        positive definite.
        """
        channels, height, width = shape
        dimension = channels * _blocks(height)[1] ** 2
        if mean.shape != (dimension,) or cov.shape != (dimension, dimension):
            raise DataError(
                f"Gaussian statistics have shapes {list(mean.shape)} and {list(cov.shape)}, expected [{dimension}] "
                f"and [{dimension}, {dimension}] for images of {channels}x{height}x{width}"
            )
        mean, cov = mean.to(torch.float64), cov.to(torch.float64)
        if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
            raise DataError("Gaussian statistics hold values that are not finite; fit them again")
        if not is_symmetric(cov):  # of which the factorisation would read one half
            raise DataError("the covariance is not symmetric; fit the Gaussian again")
        factor, info = torch.linalg.cholesky_ex(cov + ridge * torch.eye(dimension, dtype=torch.float64))
        if info:
            raise DataError(
                f"the covariance plus the ridge {ridge:g} is not positive definite (row {int(info)}); fit the Gaussian "
                "again or raise gaussian.ridge"
            )
        return cls(mean, factor, tuple(shape))

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> "GaussianInit":
        """The same distribution with its tensors on `device`, in `dtype`."""
        return GaussianInit(self.mean.to(device, dtype), self.factor.to(device, dtype), self.shape)

    def from_noise(self, z: Tensor) -> Tensor:
        """The draws that belong to standard normal z: [n, D] to [n, C, H, W] in [-1, 1], one matrix product."""
        channels, height, _ = self.shape
        block, side = _blocks(height)
        x = torch.addmm(self.mean, z, self.factor.T).clamp_(-1, 1)
        return block_repeat(x.view(-1, channels, side, side), block)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, [n, C, H, W] in [-1, 1], on the device of the statistics and the generator."""
        z = torch.randn(n, len(self.mean), generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.from_noise(z)


@dataclass
class ClasswiseInit:
    """Draws a class, and then from the Gaussian of its images. Classes have the shares of the training images.

    means: [K, D]; factors: [K, D, D], lower; shares: [K]; shape: (C, H, W) of a draw.
    """

    means: Tensor
    factors: Tensor
    shares: Tensor
    shape: tuple[int, int, int]

    GATHERED = 64  # draws whose factors are copied side by side; of more, classes are drawn from in turn

    @classmethod
    def from_moments(
        cls, means: Tensor, covs: Tensor, shares: Tensor, shape: tuple[int, int, int], ridge: float
    ) -> "ClasswiseInit":
        """Factor every class's covariance. Raises DataError as `GaussianInit.from_moments` does."""
        if not len(means) == len(covs) == len(shares):
            raise DataError(f"moments of {len(means)}, {len(covs)} and {len(shares)} classes; fit the Gaussian again")
        inits = [GaussianInit.from_moments(mean, cov, shape, ridge) for mean, cov in zip(means, covs, strict=True)]
        factors = torch.stack([init.factor.to(torch.float32) for init in inits])
        return cls(torch.stack([init.mean for init in inits]).float(), factors, shares.float(), tuple(shape))

    def to(self, device: torch.device | str) -> "ClasswiseInit":
        """The same distribution with its tensors on `device`, in float32."""
        return ClasswiseInit(self.means.to(device), self.factors.to(device), self.shares.to(device), self.shape)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, [n, C, H, W] in [-1, 1], on the device of the statistics and the generator.

        Few draws are made without asking the device for their classes, which would make a GPU wait.
        """
        classes = torch.multinomial(self.shares, n, replacement=True, generator=generator)
        z = torch.randn(n, self.means.shape[1], generator=generator, device=self.means.device)
        x = self.means[classes]
        if n <= self.GATHERED:
            x = x + torch.bmm(self.factors[classes], z[:, :, None])[:, :, 0]
        else:
            for label in range(len(self.shares)):
                of = classes == label
                x[of] += z[of] @ self.factors[label].T
        channels, height, _ = self.shape
        block, side = _blocks(height)
        return block_repeat(x.clamp_(-1, 1).view(-1, channels, side, side), block)


@dataclass
class UniformInit:
    """The baseline start: every pixel uniform in [-1, 1]."""

    shape: tuple[int, int, int]
    device: torch.device | str = "cpu"

    def to(self, device: torch.device | str) -> "UniformInit":
        """The same distribution drawing on `device`."""
        return UniformInit(self.shape, device)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """n draws, [n, C, H, W] in [-1, 1]."""
        return torch.rand(n, *self.shape, generator=generator, device=self.device) * 2 - 1


Init = GaussianInit | ClasswiseInit | UniformInit
MOMENTS = {  # arrays of gaussian.npz that a start needs, and how many sides they have
    "gaussian": {"mean": 1, "cov": 2},
    "classwise": {"class_mean": 2, "class_cov": 3, "class_share": 1},
}


def load_init(kind: str, path: str | Path, shape: tuple[int, int, int]) -> Init:
    """The initial distribution of a run: "gaussian" or "classwise" from an archive of moments, or "uniform".

    The archive is not read for "uniform". Raises DataError for one that is damaged, or has no moments of classes.
    """
    if kind == "uniform":
        return UniformInit(shape)
    names = MOMENTS[kind]
    arrays = read_npz(path, "ridge", optional=tuple(names))
    if lacking := [name for name in names if name not in arrays]:
        raise DataError(f"{path}: lacks {lacking[0]}; set gaussian.classwise, or fit the Gaussian again")
    for name, array in arrays.items():
        if not np.issubdtype(array.dtype, np.floating):
            raise DataError(f"{path}: {name} has dtype {array.dtype}, expected floats; fit the Gaussian again")
    values = [torch.from_numpy(numbers(path, name, arrays[name], (None,) * sides)) for name, sides in names.items()]
    ridge = float(numbers(path, "ridge", arrays["ridge"], ()))
    make = GaussianInit.from_moments if kind == "gaussian" else ClasswiseInit.from_moments
    try:
        return make(*values, shape, ridge)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
