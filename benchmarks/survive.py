"""Kill, cut, damage and crowd the pipeline under both engines, and count what was lost.

    python benchmarks/survive.py [--kills N] [--seed N]

Works on copies of the project in a temporary folder, on small data. Uninterrupted runs are the reference: after every
series of faults the same command must end in the same bytes.
"""

import argparse
import os
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import faults
from engines import digests, run


def training(root: Path, kills: int, epochs: int, rng: random.Random, tally: faults.Tally) -> None:
    """Kills of a training that takes long enough to be met, cut states, a full disk, a divergence, two at once."""
    reference = faults.make(root / "reference", epochs)
    run(reference, *faults.COMMANDS["dvc"])
    expected = faults.result(reference)
    for engine in faults.COMMANDS:
        folder = faults.make(root / f"training_{engine}", epochs)
        faults.kill_at_random(folder, engine, kills, rng, tally)
        faults.truncate_newest(folder, tally)
        faults.finish(folder, engine, kills, expected, tally)
        print(tally.text(), flush=True)
    if os.getuid() == 0:
        faults.full_disk(reference, expected, tally)
    faults.not_a_number(reference, tally)
    faults.two_at_once(faults.make(root / "two", 1), {"0", "1"}, tally)


def chain(root: Path, kills: int, rng: random.Random, tally: faults.Tally) -> None:
    """Kills among quick jobs, and everything else that happens to files and engines."""
    reference = faults.suite(root / "suite")
    run(reference, "snakemake")
    expected = digests(reference)

    def copy(name: str) -> Path:
        return Path(shutil.copytree(reference, root / name, symlinks=True))

    for engine in faults.ALL:
        faults.kill_chain(copy(f"kills_{engine}"), engine, kills, rng, expected, tally)
        faults.tear(copy(f"torn_{engine}"), engine, rng, expected, tally)
        faults.by_hand(copy(f"hand_{engine}"), engine, expected, tally)
        print(tally.text(), flush=True)
    faults.damage_cache(copy("cache"), expected, tally)
    faults.two_commands(copy("two_commands"), expected, tally)
    faults.engine_dies(copy("engine"), expected, tally)
    if why := faults.why_alone():
        print(f"two users, one cache: left out; {why}", flush=True)
    else:
        faults.two_users(root / "users", reference, expected, tally)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100, help="kills, a quarter of each kind (%(default)s)")
    parser.add_argument("--epochs", type=int, default=10, help="of the training, 31 iterations each (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (%(default)s)")
    args = parser.parse_args()
    start, tally, rng = time.monotonic(), faults.Tally(), random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        chain(Path(name), args.kills // 4, rng, tally)
        training(Path(name), args.kills // 4, args.epochs, rng, tally)
    print(f"\n{tally.text()}\n{time.monotonic() - start:.0f} s")
    return bool(tally.lost)


if __name__ == "__main__":
    sys.exit(main())
