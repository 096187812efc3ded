"""What the pipeline costs besides the work: engines with nothing to do at 40 runs, and each stage's own start-up.

    python benchmarks/overhead.py [--runs N]

Makes a suite whose jobs are recorded as done, with made-up outputs, in a temporary folder, then times `snakemake -n`,
`dvc status` and `dvc repro` with nothing to do, and `snakemake -n` after an edit that makes all trainings stale.
Start-up is the time of `--help`, and says whether torch was imported.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import smoke  # noqa: E402
from engines import copy_project, run, write_params  # noqa: E402
from recorded import record_as_done  # noqa: E402


def seconds(folder: Path, *command: str) -> float:
    start = time.perf_counter()
    run(folder, *command)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=40, help="runs of the suite (%(default)s)")
    args = parser.parse_args()
    print("stage                 start-up   torch")
    for path in sorted((ROOT / "stages").glob("*.py")):
        if path.stem in ("__init__", "cli"):
            continue
        command = [sys.executable, "-X", "importtime", "-m", f"stages.{path.stem}", "--help"]
        start = time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = "yes" if re.search(r"\| +torch$", done.stderr, re.MULTILINE) else "no"
        print(f"{path.stem:20} {time.perf_counter() - start:8.2f} s   {loaded}")
    content = smoke.smoke_params()
    content["train"] |= {"epochs": 1, "n_steps": 0}
    entries = {f"run_{i}": {"method": "M-EBM", "dataset": "digits", "train": {"seed": i}} for i in range(args.runs)}
    content["suite"] = smoke.suite("smoke", {"digits": {}}, entries)
    with tempfile.TemporaryDirectory() as name:
        folder = copy_project(Path(name) / "project", content)
        record_as_done(folder)
        for command in (("snakemake", "-n"), ("dvc", "status"), ("dvc", "repro")):
            seconds(folder, *command)  # hashes are kept from the first time on
            print(f"{' '.join(command):28} {seconds(folder, *command):6.2f} s with nothing to do", flush=True)
        content["train"]["lr"] /= 2
        write_params(folder, content)
        print(f"{'snakemake -n':28} {seconds(folder, 'snakemake', '-n'):6.2f} s with every training stale")


if __name__ == "__main__":
    main()
