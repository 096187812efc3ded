"""Our training iteration against the plain one, alternately in one process, on the same images.

    python benchmarks/train_step.py [--networks 10-2 28-2] [--steps 1 5 10] [--rounds N] [--threads N] [--compile]

Prints for each network, model and K: medians in seconds, the median of the round-by-round ratios, images (forward
passes) a second, the share of a matrix product's speed measured on the same device and precision, peak memory, and how
an iteration of ours splits over SGLD, loss with its backward pass, optimiser, and the rest (data, buffer, draws, log).
"""

import argparse
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import archives  # noqa: E402
import smoke  # noqa: E402
from baseline import Baseline  # noqa: E402

from mebm.data.images import ImageSet  # noqa: E402
from mebm.method.gaussian import GaussianInit, fit_gaussian  # noqa: E402
from mebm.method.iteration import Algorithm, sample, terms  # noqa: E402
from mebm.training.loop import step  # noqa: E402
from mebm.training.operations import training_cost  # noqa: E402
from mebm.training.run import Run  # noqa: E402

N_IMAGES = 2000


class Split:
    """Seconds spent in parts of an iteration."""

    def __init__(self, device: torch.device):
        self.device, self.seconds = device, {"sgld": 0.0, "forward": 0.0, "backward": 0.0, "optimiser": 0.0}

    def timed(self, name: str, function):
        def call(*args, **kwargs):
            start = self.now()
            result = function(*args, **kwargs)
            self.seconds[name] += self.now() - start
            return result

        return call

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def matmul_rate(device: torch.device, dtype: torch.dtype, n: int) -> float:
    """Operations per second of a square matrix product, the best of a few."""
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        if device.type == "cuda":
            torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def once(device: torch.device, step) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def split_of(run, device: torch.device) -> str:
    """Shares of one iteration's parts, in percent."""
    split = Split(device)
    originals = run.algorithm, torch.Tensor.backward, run.optimiser.step
    run.algorithm = Algorithm(sample=split.timed("sgld", sample), terms=split.timed("forward", terms))
    torch.Tensor.backward = split.timed("backward", originals[1])
    run.optimiser.step = split.timed("optimiser", originals[2])
    try:
        total = once(device, partial(step, run))
    finally:
        run.algorithm, torch.Tensor.backward, run.optimiser.step = originals
    seconds = split.seconds
    loss = seconds["forward"] - seconds["sgld"] + seconds["backward"]
    rest = total - seconds["sgld"] - loss - seconds["optimiser"]
    parts = {"sgld": seconds["sgld"], "loss": loss, "optimiser": seconds["optimiser"], "rest": rest}
    return " / ".join(f"{100 * value / total:.0f}" for value in parts.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["10-2", "28-2"], help="DEPTH-WIDTH (%(default)s)")
    parser.add_argument("--steps", nargs="+", type=int, default=[1, 5, 10], help="SGLD steps K (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="iterations of each kind (%(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (%(default)s)")
    parser.add_argument("--compile", action="store_true", help="also with torch.compile")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {args.threads} threads"
    size = 8192 if device.type == "cuda" else 2048
    peaks = {"float32": matmul_rate(device, torch.float32, size), "bf16": matmul_rate(device, torch.bfloat16, size)}
    products = ", ".join(f"{rate / 1e12:.3g} TFLOP/s in {kind}" for kind, rate in peaks.items())
    print(f"{name}; torch {torch.__version__}; matrix product {products}")

    images = torch.from_numpy(archives.pictures(N_IMAGES))
    data = ImageSet(images, torch.arange(N_IMAGES) % 10)
    mean, cov = fit_gaussian(images)
    init = GaussianInit.from_moments(mean, cov, data.shape, 1e-4)
    heading = (
        "network",
        "model",
        "K",
        "kind",
        "s/iteration",
        "ratio",
        "images/s",
        "share",
        "sgld/loss/opt/rest %",
        "GB",
    )
    print("| " + " | ".join(heading) + " |\n|" + " --- |" * len(heading))
    for network in args.networks:
        depth, width = map(int, network.split("-"))
        for model, pyx_weight in (("M-EBM", 0.0), ("M-JEM", 1.0)):
            for n_steps in args.steps:
                compare(
                    args,
                    device,
                    peaks,
                    data,
                    init,
                    (mean.numpy(), cov.numpy()),
                    network,
                    depth,
                    width,
                    model,
                    pyx_weight,
                    n_steps,
                )


def compare(args, device, peaks, data, init, moments, network, depth, width, model, pyx_weight, n_steps) -> None:
    def settings(**changes):
        base = {"depth": depth, "width": width, "pyx_weight": pyx_weight, "n_steps": n_steps, "buffer_size": 1000}
        base |= {"augment_pad": 4, "augment_flip": True, "epochs": 1000, "warmup_iters": 1000, "batch_size": 64}
        return smoke.section("train", **{**base, "label_batch_size": 128, "log_every": 10, **changes})

    precisions = {"float32": {}, "bf16": {"precision": "bf16"}}
    ways = {"": {}} | ({" compiled": {"compile": True}} if args.compile else {})
    kinds = {f"{p}{w}": {**first, **more} for p, first in precisions.items() for w, more in ways.items()}
    runs = {kind: Run(settings(**changes), data, init, device) for kind, changes in kinds.items()}
    plain = Baseline(settings(), data, *moments, device)
    times: dict[str, list[float]] = {"plain": [], **{kind: [] for kind in runs}}
    for round_ in range(args.rounds + 1):  # the first warms up
        for kind, iterate in (("plain", plain.step), *((kind, partial(step, run)) for kind, run in runs.items())):
            once(device, iterate)  # after another kind, caches and the allocator are those of the other
            seconds = once(device, iterate)
            if round_:
                times[kind].append(seconds)
    cost = training_cost(settings(), data.shape, len(data), True)
    images, flops = cost.images / cost.iterations, cost.flops / cost.iterations
    for kind, seconds in times.items():
        median = statistics.median(seconds)
        ratio = statistics.median(p / s for p, s in zip(times["plain"], seconds, strict=True))
        share = flops / median / peaks["bf16" if "bf16" in kind else "float32"]
        split = split_of(runs[kind], device) if kind in runs else ""
        if device.type == "cuda":
            memory = torch.cuda.max_memory_allocated() / 2**30
        else:
            import resource

            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        values = (network, model, n_steps, kind, f"{median:.3f}", f"{ratio:.2f}", f"{images / median:,.0f}")
        print("| " + " | ".join(map(str, (*values, f"{100 * share:.0f} %", split, f"{memory:.1f}"))) + " |", flush=True)


if __name__ == "__main__":
    main()
