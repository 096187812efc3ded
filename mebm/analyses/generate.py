"""New samples: chains from the initial distribution that descend a trained energy (docs/method.md, New samples)."""

from collections.abc import Iterable, Iterator
from itertools import islice

import torch
from torch import Tensor

from mebm.data.images import unit_to_bytes
from mebm.errors import Diverged
from mebm.measure.evaluation import score, statistics
from mebm.method.energy import EnergyModel
from mebm.method.gaussian import Init
from mebm.method.sgld import sgld_step
from mebm.seeds import generator_for
from mebm.training.execution import launcher, way_of

BLOCK = 100  # chains that share a generator: one for each would be slow on a GPU. Another number gives other samples.


class Chains:
    """`count` chains and the SGLD that moves them, one step at a time.

    init: where chains start; bn_stats: statistics by which chains move, "batch" as in training, or "running", which
    makes chains independent of each other. step_size and noise_std are in pixel units of [-1, 1]; grad_bound bounds
    the gradient elementwise, None not at all. execution: that of the run's training; with a graph, on a GPU, a step of
    a batch is one launch.

    Chain i depends on the seed and on i: starts and noise are drawn in blocks of fixed size, always whole. Batches
    are always full as well, by chains beyond `count` that are never shown: the statistics of a smaller last batch
    would be others, and convolutions of another number of images may round otherwise. So the first chains are the
    same, bit by bit, for any count; for any batch size they are so with running statistics on a CPU, and up to the
    rounding of convolutions on a GPU. With batch statistics the batch size is part of the result.
    """

    def __init__(
        self,
        model: EnergyModel,
        init: Init,
        count: int,
        seed: int,
        *,
        batch_size: int,
        bn_stats: str,
        step_size: float,
        noise_std: float,
        grad_bound: float | None,
        execution: str = "auto",
    ):
        self.model, self.count, self.bn_stats, self.taken = model, count, bn_stats, 0
        self._step = {"step_size": step_size, "noise_std": noise_std, "grad_bound": grad_bound}
        device = next(model.parameters()).device
        n_batches = -(-count // batch_size)
        blocks = range(-(-n_batches * batch_size // BLOCK))
        # Starts come from the CPU, so that they are the same on every device; noise is drawn where it is needed.
        start = init.to("cpu")
        starts = (start.sample(BLOCK, generator_for(f"generated start {block}", seed)) for block in blocks)
        self.batches = [batch.to(device) for batch in islice(in_batches(starts, batch_size), n_batches)]
        self._noise = [generator_for(f"generated noise {block}", seed, device) for block in blocks]
        # What a training on a GPU was told means nothing where the chains move on a CPU.
        self._launch = launcher(self._moved, way_of(execution if device.type == "cuda" else "eager", device))

    def step(self) -> None:
        """One SGLD step of every chain. Raises Diverged where a gradient is not finite."""
        shape = (BLOCK, *self.batches[0].shape[1:])
        draws = (torch.randn(shape, generator=generator, device=generator.device) for generator in self._noise)
        noise = in_batches(draws, len(self.batches[0])) if self._step["noise_std"] else iter(())
        finite = []
        with self.model.frozen_weights(), statistics(self.model, self.bn_stats):
            for index, x in enumerate(self.batches):
                self.batches[index], is_finite = self._launch(x, next(noise, None))
                finite.append(is_finite)
        self.taken += 1
        if not bool((finite := torch.cat(finite)).all()):  # the device is waited for once a step
            raise Diverged(
                f"the gradients of {int((~finite).sum())} of {len(finite)} chains are not finite in step {self.taken} "
                "of generation; bound them by generate.grad_bound, or look at the training's energies",
                self.taken,
            )

    def _moved(self, x: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor]:
        """A batch one step further, and which of its gradients are finite: not the chains, for clipping hides it."""
        moved, gradient = sgld_step(self.model.energy, x, **self._step, noise=noise)
        return moved, torch.isfinite(gradient).flatten(1).all(dim=1)

    def energies(self, bn_stats: str) -> Tensor:
        """E of each chain, [count], by these BatchNorm statistics, which need not be those of its steps."""
        return torch.cat([score(self.model, x, len(x), bn_stats).energy for x in self.batches])[: self.count]

    def images(self, n: int | None = None) -> Tensor:
        """The first n chains (all of them) as bytes, uint8 [n, C, H, W] on the CPU."""
        n = self.count if n is None else min(n, self.count)
        n_batches = -(-n // len(self.batches[0]))
        return torch.cat([unit_to_bytes(batch).cpu() for batch in self.batches[:n_batches]])[:n]


def in_batches(blocks: Iterable[Tensor], size: int) -> Iterator[Tensor]:
    """The rows of consecutive blocks, of any sizes, in batches of `size`; the last may be smaller."""
    left: list[Tensor] = []
    for block in blocks:
        rows = torch.cat([*left, block]) if left else block
        while len(rows) >= size:
            yield rows[:size]
            rows = rows[size:]
        left = [rows] if len(rows) else []
    yield from left
