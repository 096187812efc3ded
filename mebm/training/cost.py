"""Estimates of training: iterations, arithmetic, and hours on this device by a short calibration."""

import json
import platform
import time
from contextlib import suppress
from pathlib import Path

import torch

from mebm.errors import DataError
from mebm.files import read_json, write_json
from mebm.method.energy import build_model
from mebm.settings.schema import Train
from mebm.training.operations import Cost, forward_flops, network, training_cost

CALIBRATION_SECONDS = 0.5


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
        of = [train.precision, train.batch_size, *network(train).values()]
        key = json.dumps([_machine(device), torch.__version__, torch.get_num_threads(), shape, *of])
        if key not in self._fresh:
            self._fresh[key] = max(_measured(train, shape, device), self._kept.get(key, 0.0))
            with suppress(DataError):  # unwritable: only the next estimate is poorer for it
                write_json(self._path, self._kept | self._fresh)
        return self._fresh[key]


def _measured(train: Train, shape: tuple[int, int, int], device: torch.device) -> float:
    batch = train.batch_size if device.type == "cuda" else min(train.batch_size, 8)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        model = build_model(shape, 1, **network(train)).to(device).train()
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
