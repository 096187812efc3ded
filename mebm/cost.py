"""What training will cost: iterations, arithmetic, and hours on the device at hand from a short calibration."""

import json
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from mebm.energy import ARCHITECTURE, build_model
from mebm.errors import DataError
from mebm.files import read_json, write_json
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


class Rates:
    """Operations per second that networks reach on a device in training passes, measured for about half a second each.

    The best passes ever seen on this machine are kept in a file and count, so that what else the machine was doing at
    one moment does not make the estimates of one run differ.
    """

    def __init__(self, path: Path = Path(".state/rates.json")):
        self._path, self._fresh = path, {}
        try:
            kept = read_json(path) if path.is_file() else {}
        except DataError:  # damaged: measured again
            kept = {}
        self._kept = {key: rate for key, rate in kept.items() if isinstance(rate, float)}

    def of(self, train: Train, shape: tuple[int, int, int], device: torch.device) -> float:
        """The rate of a run's network, measured once in this process."""
        network = [train.precision, train.batch_size, *_network(train).values()]
        key = json.dumps([_machine(device), torch.__version__, torch.get_num_threads(), shape, *network])
        if key not in self._fresh:
            self._fresh[key] = max(_measured(train, shape, device), self._kept.get(key, 0.0))
            with suppress(DataError):  # unwritable: only the next estimate is poorer for it
                write_json(self._path, self._kept | self._fresh)
        return self._fresh[key]


def _measured(train: Train, shape: tuple[int, int, int], device: torch.device) -> float:
    batch = train.batch_size if device.type == "cuda" else min(train.batch_size, 8)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = build_model(shape, 1, **_network(train)).to(device).train()
        x = torch.rand(batch, *shape, device=device) * 2 - 1

    def seconds() -> float:
        start = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16"):
            energy = model.energy(x).mean()
        energy.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - start

    seconds()  # the first pass also allocates and picks kernels
    until, best = time.perf_counter() + CALIBRATION_SECONDS, seconds()
    while time.perf_counter() < until:
        best = min(best, seconds())
    return 3 * batch * forward_flops(train, shape) / best


def _machine(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    return next((line for line in lines if line.startswith("model name")), platform.machine()) + platform.node()


def _network(train: Train) -> dict:
    return {key: getattr(train, key) for key in ARCHITECTURE}


def estimate(
    train: Train,
    shape: tuple[int, int, int],
    n_images: int,
    labelled: bool,
    device: torch.device,
    rates: Rates | None = None,
) -> tuple[Cost, float]:
    """The cost of a run and its hours on `device`."""
    cost = training_cost(train, shape, n_images, labelled)
    return cost, cost.flops / (rates or Rates()).of(train, shape, device) / 3600
