"""What training will cost: iterations, arithmetic, and hours on the device at hand from a short calibration."""

import time
from dataclasses import dataclass

import torch

from mebm.energy import ARCHITECTURE, build_model
from mebm.params import Train
from mebm.training import iterations_per_epoch

CALIBRATION_SECONDS = 0.5


@dataclass(frozen=True)
class Cost:
    """images: forward passes of one image; flops: floating-point operations (2 per multiply-add) of all networks."""

    iterations: int
    images: int
    flops: float


def forward_flops(train: Train, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one image's forward pass through the backbone, counted on the meta device."""
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"):
        model = build_model(shape, 1, **_network(train))
        with FlopCounterMode(display=False) as counter:
            model.features(torch.empty(2, *shape))
    return counter.get_total_flops() // 2


def training_cost(train: Train, shape: tuple[int, int, int], n_images: int, labelled: bool) -> Cost:
    """Cost of a run. A training pass costs three forward passes, an SGLD step two: no gradient to weights."""
    iterations = iterations_per_epoch(train, n_images, labelled) * train.epochs
    chains = train.batch_size * (6 + 2 * train.n_steps) if train.px_weight else 0
    classified = 3 * train.label_batch_size if train.pyx_weight else 0
    images = iterations * (chains + classified)
    return Cost(iterations, images, float(images) * forward_flops(train, shape))


def measured_rate(train: Train, shape: tuple[int, int, int], device: torch.device) -> float:
    """Operations per second that this network reaches on `device` in training passes, over about half a second."""
    batch = train.batch_size if device.type == "cuda" else min(train.batch_size, 8)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = build_model(shape, 1, **_network(train)).to(device).train()
        x = torch.rand(batch, *shape, device=device) * 2 - 1
    work = 3 * batch * forward_flops(train, shape)

    def once() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            energy = model.energy(x).mean()
        energy.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    once()  # the first pass also allocates and picks kernels
    start, passes = time.perf_counter(), 0
    while time.perf_counter() - start < CALIBRATION_SECONDS:
        once()
        passes += 1
    return work * passes / (time.perf_counter() - start)


def _network(train: Train) -> dict:
    return {key: getattr(train, key) for key in ARCHITECTURE}


def estimate(
    train: Train,
    shape: tuple[int, int, int],
    n_images: int,
    labelled: bool,
    device: torch.device,
    rates: dict | None = None,
) -> tuple[Cost, float]:
    """The cost of a run and its hours on `device`; `rates` keeps calibrations between calls."""
    cost = training_cost(train, shape, n_images, labelled)
    rates = {} if rates is None else rates
    key = (str(device), shape, train.precision, train.batch_size, *_network(train).values())
    if key not in rates:
        rates[key] = measured_rate(train, shape, device)
    return cost, cost.flops / rates[key] / 3600
