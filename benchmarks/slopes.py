"""How an iteration's time grows with K, width, resolution, batch size and the number of training images.

    python benchmarks/slopes.py [--threads N] [--rounds N]

WRN-10-2, M-EBM, 32x32, K = 5, batch 64, one quantity changed at a time. Prints medians and
the slope of a straight line through the logarithms: 1 is proportional, 2 is the square, 0 does not matter.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import smoke  # noqa: E402

from mebm.data.images import ImageSet  # noqa: E402
from mebm.method.gaussian import UniformInit  # noqa: E402
from mebm.training.loop import step  # noqa: E402
from mebm.training.run import Run  # noqa: E402

VALUES = {
    "K": [1, 2, 5, 10],
    "width": [1, 2, 4],
    "side": [16, 32, 64],
    "batch": [32, 64, 128],
    "images": [1000, 10000, 50000],
}
USUAL = {"K": 5, "width": 2, "side": 32, "batch": 64, "images": 1000}


def seconds(device: torch.device, rounds: int, K: int, width: int, side: int, batch: int, images: int) -> float:
    """Median of an iteration."""
    train = smoke.section(
        "train", width=width, n_steps=K, batch_size=batch, buffer_size=1000, epochs=1000, log_every=10
    )
    pixels = np.random.RandomState(0).randint(0, 256, (images, 3, side, side), dtype=np.uint8)
    data = ImageSet(torch.from_numpy(pixels), torch.arange(images) % 10)
    run = Run(train, data, UniformInit(data.shape), device)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        step(run)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each (%(default)s)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    for name, values in VALUES.items():
        measured = [seconds(device, args.rounds, **{**USUAL, name: value}) for value in values]
        slope = np.polyfit(np.log(values), np.log(measured), 1)[0]
        shown = ", ".join(f"{value}: {s:.3f} s" for value, s in zip(values, measured, strict=True))
        print(f"{name:7} {shown}; slope {slope:.2f}", flush=True)


if __name__ == "__main__":
    main()
