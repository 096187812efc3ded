"""Projected gradient descent against a classifier, within balls around its images (Madry et al. 2018).

The attack raises the cross-entropy, starts at a random point of the ball and stays in the ball and the valid range.
Radii are given as the literature does, "linf" in grey levels of 255 and "l2" in units of [0, 1] pixels; images are in
[-1, 1], where a grey level is 2/255 and a unit of [0, 1] is 2. Attacked images are not rounded to grey levels.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from mebm.data.images import bytes_to_unit
from mebm.errors import MetricError
from mebm.measure.evaluation import gradient_batch, score, statistics
from mebm.method.energy import EnergyModel
from mebm.seeds import generator_for

UNITS = {"linf": 2 / 255, "l2": 2.0}  # of a radius, in [-1, 1]


def survivors(
    model: EnergyModel,
    images: Tensor,
    labels: Tensor,
    norm: str,
    radii: list[float],
    *,
    steps: int,
    step_ratio: float,
    restarts: int,
    seed: int,
    batch_size: int,
) -> Iterator[tuple[float, Tensor]]:
    """Radius 0 and each of the radii, rising, with which images are correct throughout: bool [N] on the CPU.

    images: uint8 [N, C, H, W]; labels: int64 [N]; norm and radii: see above; `steps` steps of step_ratio * radius /
    steps; batch_size: of a pass without gradients. An image that is wrong without attack, in a smaller ball or after
    an earlier restart is wrong and left alone, since what was found lies in the larger ball too: no share rises with
    the radius or with the restarts. Restart i starts in the same directions for every radius and number of restarts.
    With running BatchNorm statistics. Raises MetricError for logits that are not finite.
    """
    logits = score(model, images, batch_size).logits
    if not bool(torch.isfinite(logits).all()):
        raise MetricError("class logits are not finite, so there is nothing to attack; train the run again")
    correct = logits.argmax(dim=1) == labels
    yield 0.0, correct.clone()
    for radius in sorted(set(radii) - {0.0}):
        for restart in range(restarts):
            starts = unit_ball(images.shape, norm, generator_for(f"attack {norm} {restart}", seed))
            for index in filter(len, correct.nonzero()[:, 0].split(gradient_batch(batch_size))):
                chosen = (bytes_to_unit(images[index]), labels[index], starts[index])
                correct[index] = attack(model, *chosen, norm, UNITS[norm] * radius, steps, step_ratio)
        yield radius, correct.clone()


def attack(
    model: EnergyModel,
    x: Tensor,
    labels: Tensor,
    starts: Tensor,
    norm: str,
    radius: float,
    steps: int,
    step_ratio: float,
) -> Tensor:
    """Which images every point that the attack visits leaves correctly classified, bool [B] on the CPU.

    x: [B, C, H, W] in [-1, 1]; starts: points of the unit ball, shaped like x; radius: in [-1, 1] units. A point is
    visited `steps` + 1 times, the start and the end included; an image that is wrong is not followed further. Raises
    MetricError for logits that are not finite.
    """
    device = next(model.parameters()).device
    index = torch.arange(len(x), device=device)
    x, labels = x.to(device), labels.to(device)
    moved = project(x + radius * starts.to(device), x, norm, radius)
    with model.frozen_weights(), statistics(model, "running"):
        for step in range(steps + 1):
            moved.requires_grad_(step < steps)
            logits = model.logits(moved)
            if not bool(torch.isfinite(logits).all()):  # of which the largest would be one of the first class
                raise MetricError("class logits of attacked images are not finite; train the run again")
            right = logits.argmax(dim=1) == labels
            if step < steps and bool(right.any()):
                (gradient,) = torch.autograd.grad(other_odds(logits, labels).sum(), moved)
                target = moved.detach() + step_ratio * radius / steps * direction(gradient, norm)
                moved = project(target, x, norm, radius)
            index, x, labels, moved = index[right], x[right], labels[right], moved[right]
            if not len(index):
                break
    return torch.isin(torch.arange(len(starts)), index.cpu())


def other_odds(logits: Tensor, labels: Tensor) -> Tensor:
    """Log-odds against the label, [B]: rising exactly where the cross-entropy rises.

    Its gradient is that of the cross-entropy divided by 1 - p(label), a number of each image. The attack uses only
    directions, which are thus those of the cross-entropy, but do not vanish by rounding where p(label) is nearly 1.
    """
    own = F.one_hot(labels, logits.shape[1]).bool()
    return logits.masked_fill(own, -torch.inf).logsumexp(dim=1) - logits[own]


def direction(gradient: Tensor, norm: str) -> Tensor:
    """The point of the unit ball that is furthest along each image's gradient, [B, C, H, W]; 0 for a gradient of 0."""
    if norm == "linf":
        return gradient.sign()
    scaled = gradient / gradient.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(gradient.dtype).tiny)
    return scaled / _length(scaled).clamp(min=1e-12)


def project(moved: Tensor, x: Tensor, norm: str, radius: float) -> Tensor:
    """`moved` [B, C, H, W] brought into the ball of `radius` around x and into [-1, 1].

    First onto the ball, then into the range: x is in it, so the second brings no pixel further from x.
    """
    if norm == "linf":
        moved = torch.minimum(torch.maximum(moved, x - radius), x + radius)
    else:
        offset = moved - x
        moved = x + offset * (radius / _length(offset).clamp(min=radius))
    return moved.clamp(-1, 1)


def unit_ball(shape: tuple[int, ...], norm: str, generator: torch.Generator) -> Tensor:
    """Points [N, C, H, W], uniform in the unit ball of each image's pixels."""
    if norm == "linf":
        return 2 * torch.rand(shape, generator=generator) - 1
    z = torch.randn(shape, generator=generator)
    share = torch.rand((shape[0], 1, 1, 1), generator=generator) ** (1 / z[0].numel())
    return z / _length(z) * share


def _length(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
