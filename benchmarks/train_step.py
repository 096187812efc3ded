"""Training iterations as `stages.train` runs them, back to back, beside the plain iteration, in one process.

    python benchmarks/train_step.py [--networks 28-10] [--steps 5] [--size 32] [--rounds N] [--minutes M] [--kernels]

Prints a row for each network, model, K, precision and way of execution: milliseconds of an iteration, the ratio to the
plain one (benchmarks/baseline.py), operations a second and their share of a matrix product's speed on the same device
and precision, peak memory, and the seconds that compiling and recording took. In every round each way runs in turn;
values are medians over rounds. No case begins after --minutes. --kernels lists what the device did in the last way.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

import numpy as np
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from baseline import Baseline  # noqa: E402

from mebm.data.images import ImageSet  # noqa: E402
from mebm.method.gaussian import GaussianInit, fit_gaussian  # noqa: E402
from mebm.settings.schema import Train  # noqa: E402
from mebm.training.loop import step  # noqa: E402
from mebm.training.operations import training_cost  # noqa: E402
from mebm.training.run import Run  # noqa: E402

N_IMAGES = 4000
HEADING = (
    *("network", "side", "model", "K", "precision", "way"),
    *("ms / iteration", "ratio", "TFLOP/s", "share", "GB", "start s"),
)
WAYS = {
    "cuda": (
        *("float32 eager", "bf16 eager", "bf16 compile", "bf16 graph", "bf16 graph+compile"),
        *("bf16 graph+paired", "bf16 graph+compile+paired"),
    ),
    "cpu": ("float32 eager", "float32 paired", "bf16 eager", "bf16 paired"),
}


def settings(**changes) -> Train:
    """The paper's CIFAR-10 settings, with changes."""
    return Train(**{**yaml.safe_load((ROOT / "params.yaml").read_text())["train"], **changes})


def pictures(n: int, size: int) -> torch.Tensor:
    """Smooth colourful images, uint8 [n, 3, size, size]."""
    rng = np.random.default_rng(0)
    a, b, c, d = rng.uniform(-1, 1, (4, n, 3, 1, 1))
    y, x = np.mgrid[0:size, 0:size] / size
    return torch.from_numpy((127 + 60 * np.sin(3 * (a * x + b * y) + 6 * c) + 50 * d).round().astype(np.uint8))


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def matmul_rate(device: torch.device, precision: str) -> float:
    """Operations per second of a square matrix product, the best of a few."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=torch.bfloat16 if precision == "bf16" else None) for _ in range(2))
    best = 0.0
    for _ in range(6):
        wait(device)
        start = time.perf_counter()
        a @ b
        wait(device)
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def seconds_of(iterate, n: int, device: torch.device) -> float:
    """Of an iteration, of n of them back to back."""
    wait(device)
    start = time.perf_counter()
    for _ in range(n):
        iterate()
    wait(device)
    return (time.perf_counter() - start) / n


def compare(args, device, peaks: dict[str, float], network: str, pyx_weight: float, n_steps: int) -> None:
    """Print the rows of one network, model and K."""
    depth, width = map(int, network.split("-"))
    base = {"depth": depth, "width": width, "pyx_weight": pyx_weight, "n_steps": n_steps, "buffer_size": 1000}
    images = pictures(N_IMAGES, args.size)
    data = ImageSet(images, torch.arange(N_IMAGES) % 10)
    mean, cov = fit_gaussian(images)
    init = GaussianInit.from_moments(mean, cov, data.shape, 1e-4)
    if args.size < 64:  # the plain one has no Gaussian of blocks
        plain = Baseline(settings(**base), data, mean.numpy(), cov.numpy(), device)
        ways, starts = {"plain": plain.step}, {"plain": seconds_of(plain.step, 1, device)}
    else:
        ways, starts = {}, {}
    memory = {}
    for way in args.ways:
        precision, execution = way.split()
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        run = Run(settings(**base, precision=precision, execution=execution), data, init, device)
        ways[way] = lambda run=run: step(run)
        starts[way] = seconds_of(ways[way], 1, device)
        seconds_of(ways[way], 2, device)
        memory[way] = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(args.rounds):
        for way, iterate in ways.items():
            few = way == "plain" or device.type == "cpu"
            seconds_of(iterate, 1, device)  # caches and the allocator are those of the way before
            times[way].append(seconds_of(iterate, 2 if few else 20, device))
    cost = training_cost(settings(**base), data.shape, len(data), True)
    flops = cost.flops / cost.iterations
    for way, seconds in times.items():
        precision, execution = way.split() if way != "plain" else ("float32", "plain")
        median = statistics.median(seconds)
        ratio = [p / s for p, s in zip(times["plain"], seconds, strict=True)] if "plain" in times else []
        model = "M-JEM" if pyx_weight else "M-EBM"
        cells = (network, args.size, model, n_steps, precision, execution, f"{1000 * median:.1f}")
        cells += (f"{statistics.median(ratio):.2f}" if ratio else "", f"{flops / median / 1e12:.3g}")
        cells += (f"{100 * flops / median / peaks[precision]:.0f} %",)
        cells += (f"{memory[way]:.1f}" if memory.get(way) else "", f"{starts[way]:.1f}")
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    if args.kernels:
        kernels(ways[way], device, way)


def kernels(iterate, device: torch.device, way: str) -> None:
    """List what takes the device's time in five iterations."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if device.type == "cuda" else ProfilerActivity.CPU
    with profile(activities=[activity]) as profiler:
        seconds_of(iterate, 5, device)
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profiler.key_averages(), key=lambda row: -getattr(row, key))
    total = sum(getattr(row, key) for row in rows)
    print(f"\n{way}: {total / 5000:.1f} ms of kernels an iteration, {sum(row.count for row in rows) // 5} launches\n")
    print("| ms / iteration | share | launches | kernel |\n| --- | --- | --- | --- |")
    for row in rows[:15]:
        part = getattr(row, key)
        print(f"| {part / 5000:.2f} | {100 * part / total:.0f} % | {row.count // 5} | {row.key[:100]} |", flush=True)
    print()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    on_gpu = torch.cuda.is_available()
    kind = "cuda" if on_gpu else "cpu"
    networks = ["28-10"] if on_gpu else ["10-2", "28-2"]
    parser.add_argument("--networks", nargs="+", default=networks, help="DEPTH-WIDTH (%(default)s)")
    parser.add_argument("--steps", nargs="+", type=int, default=[5], help="SGLD steps K (%(default)s)")
    parser.add_argument("--size", type=int, default=32, help="pixels per side (%(default)s)")
    parser.add_argument("--ways", nargs="+", default=WAYS[kind], help="'PRECISION EXECUTION' (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of all ways (%(default)s)")
    parser.add_argument("--minutes", type=float, default=3.5, help="no case begins later (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--kernels", action="store_true", help="also list kernels by time")
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    device, begin = torch.device(kind), time.monotonic()
    name = torch.cuda.get_device_name() if on_gpu else f"CPU, {args.threads} threads"
    if on_gpu:  # as compute.deterministic has it
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False
    peaks = {precision: matmul_rate(device, precision) for precision in ("float32", "bf16")}
    products = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {kind}" for kind, rate in peaks.items())
    print(f"{name}; torch {torch.__version__}; matrix product {products}\n")
    print("| " + " | ".join(HEADING) + " |\n|" + " --- |" * len(HEADING), flush=True)
    for network in args.networks:
        for pyx_weight in (0.0, 1.0):
            for n_steps in args.steps:
                if time.monotonic() - begin < 60 * args.minutes:
                    compare(args, device, peaks, network, pyx_weight, n_steps)


if __name__ == "__main__":
    main()
