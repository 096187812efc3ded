"""Unite the jobs of two branches that each trained something in one dvc.lock, so that nothing is trained again.

    git merge BRANCH                     # ends in a conflict in dvc.lock; resolve one in params.yaml by hand
    python -m mebm unite                 # takes the jobs of both sides from the merge in progress
    python -m mebm unite REV             # or: adds the jobs that dvc.lock holds at a revision
    dvc pull                             # if the cache lacks files of the other side: fetches them from the remote
    git add dvc.lock && git commit

Jobs that only one side has are all taken. If both sides have different results of a job, the side is taken whose record
fits params.yaml as it is now and whose inputs are among those already taken. If both sides fit, or neither, ours is
taken; where it is out of date, the job is stale. The outputs of the jobs that were taken are then checked out.
"""

import argparse
from pathlib import Path

from mebm.engine.lockfile import LOCK, hashes_in
from mebm.engine.unite import unite_here


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "revision", metavar="REV", nargs="?", help="revision whose jobs to add (the other side of the merge)"
    )


def run(args: argparse.Namespace) -> None:
    united, taken = unite_here(args.revision)
    print(f"{LOCK}: {len(united)} jobs, {taken} of them from the other side")
    absent = sum(not Path(out).exists() for job in united.values() for out in hashes_in(job, "outs"))
    print(f"{absent} outputs are not in DVC's cache: `dvc pull` fetches them" if absent else "outputs are checked out")
