"""Training hours of a suite by arithmetic: operations of every run, hours on one GPU, on several, and their price.

    python benchmarks/paper_cost.py [--suite paper] [--peak 989] [--share 0.4] [--gpus 8] [--price 3.0]

Nothing is trained or measured: hours are operations / (share * peak). peak: TFLOP/s of a dense matrix product in the
precision of the runs (an H100 in bf16: 989).
"""

import argparse
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from mebm.engine.refusal import size  # noqa: E402
from mebm.settings.suite import Params  # noqa: E402
from mebm.training.operations import training_cost  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--suite", default="paper", help="suite of params.yaml (%(default)s)")
    parser.add_argument("--peak", type=float, default=989, help="TFLOP/s of one GPU (%(default)s)")
    parser.add_argument("--share", type=float, default=0.4, help="of that peak, which training reaches (%(default)s)")
    parser.add_argument("--gpus", type=int, default=8, help="GPUs that share the runs (%(default)s)")
    parser.add_argument("--price", type=float, default=3.0, help="of one GPU hour, an example (%(default)s)")
    args = parser.parse_args()
    raw = yaml.safe_load((ROOT / "params.yaml").read_text())
    settings = Params(ROOT / "params.yaml", raw | {"suite": raw["suites"][args.suite]})
    hours = {}
    print(f"{'run':28} {'images':>10} {'iterations':>10} {'EFLOP':>8} {'hours':>7}")
    for name, run in settings.trained.items():
        shape, n_images, labelled = size(settings, run.dataset, ROOT / "nowhere")
        cost = training_cost(settings.resolve("train", name).train, shape, n_images, labelled)
        hours[name] = cost.flops / (args.share * args.peak * 1e12) / 3600
        print(f"{name:28} {n_images:10,} {cost.iterations:10,} {cost.flops / 1e18:8.2f} {hours[name]:7.2f}")
    loads = [0.0] * args.gpus
    for time in sorted(hours.values(), reverse=True):  # the longest first, to the GPU that is free first
        loads[loads.index(min(loads))] += time
    total = sum(hours.values())
    print(f"one GPU: {total:.1f} h; {args.gpus} GPUs: {max(loads):.1f} h; the longest run: {max(hours.values()):.1f} h")
    print(f"{total:.1f} GPU hours at {args.price:g} each: {total * args.price:.0f}")


if __name__ == "__main__":
    main()
