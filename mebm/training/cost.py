"""Estimates of training: arithmetic, and hours by what was measured on a known card or by a calibration here."""

import json
import platform
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from mebm.errors import DataError
from mebm.files import read_json, write_json
from mebm.method.energy import build_model
from mebm.settings.schema import Train
from mebm.training.execution import way_of
from mebm.training.operations import Cost, forward_flops, network, training_cost

CALIBRATION_SECONDS = 0.5
MEASURED_NETWORK = (28, 10)  # depth and width: smaller networks do not keep a GPU as busy
# Operations per second of `stages.train` end to end, by card, precision and execution (docs/performance.md).
MEASURED = {
    ("H100", "float32", "eager"): 111e12,
    ("H100", "bf16", "eager"): 111e12,
    ("H100", "bf16", "compile"): 122e12,
}
CARDS = sorted({card for card, *_ in MEASURED})


@dataclass(frozen=True)
class Estimate:
    """hours: None where nothing is known; basis: what the hours rest on, in words."""

    cost: Cost
    hours: float | None
    basis: str


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
    device: torch.device | str,
    rates: Rates | None = None,
) -> Estimate:
    """The cost of a run, and its hours on `device`: one of this machine, or the name of a card among CARDS.

    They rest on what training reached on a card of that name, or, on a device of this machine, on a short calibration.
    """
    cost = training_cost(train, shape, n_images, labelled)
    here = isinstance(device, torch.device)
    card = next((name for name in CARDS if name in (_machine(device) if here else device)), None)
    way = way_of(train.execution, device if here else torch.device("cuda"))
    known = MEASURED.get((card, train.precision, way)) if (train.depth, train.width) == MEASURED_NETWORK else None
    if known:
        return Estimate(cost, cost.flops / known / 3600, f"measured on an {card}")
    if not here:
        return Estimate(cost, None, f"not measured on an {card}")
    return Estimate(cost, cost.flops / (rates or Rates()).of(train, shape, device) / 3600, "a pass timed here")
