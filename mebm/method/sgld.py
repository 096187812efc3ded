"""Stochastic gradient Langevin dynamics: one step, and K of them, as pure functions of an energy."""

from collections.abc import Callable

import torch
from torch import Tensor


def sgld_step(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    step_size: float,
    noise_std: float,
    grad_bound: float | None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x <- clip(x - step_size * clip(dE/dx, -grad_bound, grad_bound) + noise_std * eps, -1, 1)  (docs/method.md, SGLD).

    energy: maps [B, C, H, W] to [B]; the gradient is of its sum over the batch. x in [-1, 1]. step_size and
    noise_std are in pixel units of that range and independent of each other. grad_bound None leaves gradients as
    they are, as the release's evaluation sampler does; the result is clipped all the same. noise: eps, of x's shape,
    standard normal, which noise_std > 0 needs. Returns the new x, detached, and the gradient before clipping. A
    gradient that is not finite reaches the result: the caller checks.
    """
    x = x.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(energy(x).sum(), x)
    with torch.no_grad():
        step = gradient if grad_bound is None else gradient.clamp(-grad_bound, grad_bound)
        x = x.detach() - step_size * step
        if noise_std:
            x += noise_std * noise
        return x.clamp_(-1, 1), gradient


def sgld(
    energy: Callable[[Tensor], Tensor],
    x: Tensor,
    n_steps: int,
    step_size: float,
    noise_std: float,
    grad_bound: float | None,
    noise: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """K = n_steps SGLD steps from x. Returns the samples and the mean gradient norm of the last step (0 for K = 0).

    noise: eps of every step, [K, *x.shape], which noise_std > 0 needs.

    Whether BatchNorm uses batch or running statistics is the energy's affair; in training each step is a forward
    pass in training mode that updates the running averages.
    """
    gradient = torch.zeros_like(x)
    for step in range(n_steps):
        x, gradient = sgld_step(energy, x, step_size, noise_std, grad_bound, noise[step] if noise_std else None)
    return x.detach(), gradient.flatten(1).norm(dim=1).mean()


def step_noise(
    shape: tuple[int, ...], n_steps: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise for `n_steps` steps of a batch of `shape`, [n_steps, *shape], on the generator's device."""
    noise = torch.empty(n_steps, *shape, device=generator.device, dtype=dtype)
    for eps in noise:
        torch.randn(shape, generator=generator, out=eps)
    return noise
