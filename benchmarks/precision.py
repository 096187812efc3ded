"""bf16 against float32, by what training gives: the demo's table over seeds.

    python benchmarks/precision.py [--seeds N] [--epochs N]

Runs the pipeline in a temporary folder with M-JEM in each way at several seeds and prints its table.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import smoke  # noqa: E402
from engines import copy_project, run  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3, help="seeds of each precision (%(default)s)")
    parser.add_argument("--epochs", type=int, help="length of training (the demo's)")
    args = parser.parse_args()
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    defaults = content["suites"]["demo"]["defaults"]
    shorter = {"epochs": args.epochs} if args.epochs else {}
    runs = {
        f"{precision}_{seed}": {
            "method": f"M-JEM, {precision}",
            "dataset": "mnist",
            "train": {"pyx_weight": 1.0, "seed": seed, "precision": precision, **shorter},
        }
        for precision in ("float32", "bf16")
        for seed in range(args.seeds)
    }
    suite = {**smoke.suite("precision", {"mnist": {}}, runs), "defaults": defaults}
    with tempfile.TemporaryDirectory() as name:
        folder = copy_project(Path(name) / "project", {**content, "suites": {}, "suite": suite})
        run(folder, "snakemake", "results/tables/demo.md")
        print((folder / "results" / "tables" / "demo.md").read_text())
        for cost in sorted((folder / "results").glob("*/train/cost.json")):
            print(cost.parent.parent.name, cost.read_text().strip())


if __name__ == "__main__":
    main()
