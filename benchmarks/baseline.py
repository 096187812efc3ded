"""The iteration as this family of published code runs it, plainly: what our training is measured against.

float32 in contiguous layout; data, buffer and Gaussian on the host with a copy each way in every iteration; fresh
chains drawn image by image for the whole batch, of which 5 % are used; pictures augmented one by one in a DataLoader,
also when there is no classifier; one number read back from the device in every iteration. It computes the same
function as the library: tests/test_benchmarks.py compares energies, samples, loss and gradients.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from mebm.data.images import ImageSet
from mebm.method.energy import ARCHITECTURE, EnergyModel, build_model
from mebm.settings.schema import Train


class PlainModel(EnergyModel):
    """The same network, without a layout of its own."""

    def features(self, x: Tensor) -> Tensor:
        return self.backbone(x)


def plain_model(shape: tuple[int, int, int], n_classes: int, train: Train) -> PlainModel:
    """A PlainModel with contiguous weights."""
    options = {key: getattr(train, key) for key in ARCHITECTURE}
    model = build_model(shape, n_classes, **options)
    model.__class__ = PlainModel
    return model.to(memory_format=torch.contiguous_format)


class Pictures(Dataset):
    """One picture and label at a time, through torchvision's transforms."""

    def __init__(self, data: ImageSet, augment_pad: int | None, flip: bool):
        self.arrays, self.labels = data.images.permute(0, 2, 3, 1).numpy(), data.labels
        steps: list = [transforms.ToPILImage()]
        if augment_pad is not None:
            steps.append(transforms.Pad(augment_pad, padding_mode="reflect"))
            steps.append(transforms.RandomCrop(data.shape[1]))
            steps += [transforms.RandomHorizontalFlip()] if flip else []
        channels = data.shape[0]
        steps += [transforms.ToTensor(), transforms.Normalize((0.5,) * channels, (0.5,) * channels)]
        self.transform = transforms.Compose(steps)

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        array = self.arrays[index]
        return self.transform(array if array.shape[2] > 1 else array[:, :, 0]), int(self.labels[index])


def endless(loader: DataLoader) -> Iterator:
    while True:
        yield from loader


def sgld_plain(model: EnergyModel, x: Tensor, train: Train) -> Tensor:
    """K steps on x, as published: gradients of the summed density, clipped, with noise."""
    x = x.clone().requires_grad_(True)
    for _ in range(train.n_steps):
        f = -model.energy(x)
        (gradient,) = torch.autograd.grad(f.sum(), [x], retain_graph=True)
        bound = train.grad_bound
        step = gradient if bound is None else torch.clamp(gradient, -bound, bound)
        x.data += train.step_size * step + train.noise_std * torch.randn_like(x)
        x.data.clamp_(-1, 1)
    return x.detach()


def objective(model: EnergyModel, x_pos: Tensor, x_neg: Tensor, labelled: tuple, train: Train) -> Tensor:
    """The published loss, in the published sign."""
    f_pos = -model.energy(x_pos)
    f_neg = -model.energy(x_neg)
    loss = -(f_pos.mean() - f_neg.mean())
    loss = train.px_weight * (loss + train.l2_coeff * ((f_pos**2).mean() + f_neg.mean() ** 2))
    if train.pyx_weight > 0:
        loss = loss + torch.nn.functional.cross_entropy(model.logits(labelled[0]), labelled[1])
    return loss


class Baseline:
    """A run in progress, plainly."""

    def __init__(self, train: Train, data: ImageSet, mean: np.ndarray, cov: np.ndarray, device: torch.device):
        self.train, self.device, self.shape = train, device, data.shape
        torch.manual_seed(train.seed)
        self.model = plain_model(data.shape, data.n_classes, train).to(device).train()
        self.optimiser = torch.optim.SGD(
            self.model.parameters(), train.lr, momentum=train.momentum, weight_decay=train.weight_decay
        )
        scale = torch.as_tensor(cov, dtype=torch.float32) + 1e-4 * torch.eye(len(mean))
        self.gaussian = MultivariateNormal(torch.as_tensor(mean, dtype=torch.float32), scale)
        self.buffer = torch.cat([self._draw() for _ in range(train.buffer_size)])
        plain, labelled = Pictures(data, None, False), Pictures(data, train.augment_pad, train.augment_flip)
        self.plain = endless(DataLoader(plain, train.batch_size, shuffle=True, drop_last=True))
        self.labelled = endless(DataLoader(labelled, train.label_batch_size, shuffle=True, drop_last=True))

    def _draw(self) -> Tensor:
        return self.gaussian.sample().clamp(-1, 1).view(1, *self.shape)

    def step(self) -> float:
        train = self.train
        x_pos = next(self.plain)[0].to(self.device)
        labelled = tuple(part.to(self.device) for part in next(self.labelled))
        indices = torch.randint(0, len(self.buffer), (train.batch_size,))
        fresh = torch.cat([self._draw() for _ in range(train.batch_size)])
        restart = (torch.rand(train.batch_size) < train.reinit_freq).float()[:, None, None, None]
        x_init = (restart * fresh + (1 - restart) * self.buffer[indices]).to(self.device)
        x_neg = sgld_plain(self.model, x_init, train)
        self.buffer[indices] = x_neg.cpu()
        loss = objective(self.model, x_pos, x_neg, labelled, train)
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return loss.item()
