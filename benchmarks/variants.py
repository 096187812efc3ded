"""What a switch of training gives: M-JEM on the demo's digits at full length, over seeds, as the demo's table.

    python benchmarks/variants.py [VARIANT ...] [--seeds N] [--epochs N] [--folder PATH]

Runs the pipeline in a folder (a temporary one) with each variant at several seeds, scores every run's averaged weights
as well, and prints the table and the hours. Called again with the same folder it goes on.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import smoke  # noqa: E402
from engines import copy_project, run  # noqa: E402

VARIANTS = {
    "plain": {},
    "bf16": {"precision": "bf16"},
    "sharpness_aware": {"algorithm": "sharpness_aware"},
    "adaptive": {"algorithm": "sharpness_aware", "sam_adaptive": True, "sam_rho": 0.5},
    "classwise": {"init": "classwise"},
}
DECAYS = [0.9, 0.98]  # of 500 iterations: a larger one would still be rising


def suite_of(names: list[str], seeds: int, epochs: int | None) -> dict:
    """Runs of each variant and seed, and of each its averaged weights and its last ones with new statistics."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    defaults = {**content["suites"]["demo"]["defaults"], "gaussian": {"classwise": True}}
    shorter = {"epochs": epochs} if epochs else {}
    trained, imported = {}, {}
    for name in names:
        for seed in range(seeds):
            train = {"pyx_weight": 1.0, "seed": seed, "ema_decays": DECAYS, **VARIANTS[name], **shorter}
            trained[f"{name}_{seed}"] = {"method": name, "dataset": "mnist", "train": train}
            for decay in (None, *DECAYS):
                weights = "statistics of training images" if decay is None else f"average {decay}"
                imported[f"{name}_{seed}_ema{str(decay or 0)[2:]}"] = {
                    "method": f"{name}, {weights}",
                    "dataset": "mnist",
                    "checkpoint": f"results/{name}_{seed}/train/checkpoint.pt",
                    "weights": {"ema_decay": decay, "bn_images": 4000},
                }
    suite = {**smoke.suite("variants", {"mnist": {}}, trained, imported), "defaults": defaults}
    return {**content, "suites": {}, "suite": suite}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="*", default=list(VARIANTS), help=f"of {', '.join(VARIANTS)} (all)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each (%(default)s)")
    parser.add_argument("--epochs", type=int, help="length of training (the demo's)")
    parser.add_argument("--folder", type=Path, help="where to run, kept (a temporary folder)")
    args = parser.parse_args()
    if unknown := set(args.variants) - set(VARIANTS):
        parser.error(f"no such variant: {', '.join(sorted(unknown))}; known: {', '.join(VARIANTS)}")
    with tempfile.TemporaryDirectory() as name:
        folder = args.folder or Path(name) / "project"
        if not folder.exists():
            copy_project(folder, suite_of(args.variants, args.seeds, args.epochs))
        run(folder, "snakemake", "results/tables/demo.md")
        print((folder / "results" / "tables" / "demo.md").read_text())
        for cost in sorted((folder / "results").glob("*/train/cost.json")):
            print(cost.parent.parent.name, cost.read_text().strip())


if __name__ == "__main__":
    main()
