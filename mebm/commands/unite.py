"""Take the jobs of two branches that each trained something into one dvc.lock, so that nothing is trained again.

    git merge BRANCH                     # ends in a conflict in dvc.lock; settle one in params.yaml by hand
    python -m mebm unite                 # takes both sides' jobs from the merge in progress
    python -m mebm unite REV             # or: adds what dvc.lock holds at a revision
    dvc pull                             # where the cache does not have the other side's files: from the remote
    git add dvc.lock && git commit

A job that only one side has is taken. One that both have differently is taken from the side whose record fits
params.yaml as it is now and whose inputs are those that were taken, and from ours where both or neither do: if that is
not the present one, it is stale, as in any version. Outputs of the jobs that were taken are then checked out.
"""

import argparse
from pathlib import Path

from mebm.engine.lockfile import LOCK, hashes_in
from mebm.engine.unite import unite_here


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("revision", metavar="REV", nargs="?", help="take its jobs (the other side of a merge)")


def run(args: argparse.Namespace) -> None:
    united, taken = unite_here(args.revision)
    print(f"{LOCK}: {len(united)} jobs, {taken} of them from the other side")
    absent = sum(not Path(out).exists() for job in united.values() for out in hashes_in(job, "outs"))
    print(f"{absent} outputs are not in DVC's cache: `dvc pull` fetches them" if absent else "outputs are checked out")
