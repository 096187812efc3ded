"""Kill training at random moments under both engines, fill its disk, cut its states, and count what was lost.

    python benchmarks/survive.py [--kills N] [--seed N]

Works on copies of the project in a temporary folder, on the demo's digits. An uninterrupted run is the reference: after
every series of faults the same command must end in the same bytes.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import faults
from engines import run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30, help="kills, half of them under each engine (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of the training, 31 iterations each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    start, tally, rng = time.monotonic(), faults.Tally(), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        reference = faults.make(Path(name) / "reference", args.epochs)
        run(reference, *faults.COMMANDS["dvc"])
        expected = faults.result(reference)
        for engine in faults.COMMANDS:
            folder = faults.make(Path(name) / engine, args.epochs)
            faults.kill_at_random(folder, engine, args.kills // 2, rng, tally)
            faults.truncate_newest(folder, tally)
            faults.finish(folder, engine, expected, tally, f"kills under {engine}")
            print(tally.text(), flush=True)
        if os.getuid() == 0:
            faults.full_disk(reference, expected, tally)
        faults.not_a_number(reference, tally)
        faults.two_at_once(faults.make(Path(name) / "two", 1), {"0", "1"}, tally)
    print(f"\n{tally.text()}\n{time.monotonic() - start:.0f} s")
    return bool(tally.lost)


if __name__ == "__main__":
    sys.exit(main())
