"""Repair DVC's own files after a kill, a crash or a disk failure.

1. `dvc.lock`, which DVC writes in place. A torn file is replaced by the copy that was kept when the last job started or
   ended, or by that of the last commit. A cut file that still reads as YAML gets the records back that this copy has,
   unless git holds it as it is. If the record of a job is in neither, DVC's cache still has its results.
2. `.dvc/tmp/rwlock`, DVC's record of who reads and writes what. A torn file is removed, and so is an entry whose
   process number now belongs to a program other than DVC (numbers are used again after a restart). Do not run this
   while other machines of a cluster are at work.
3. Objects of DVC's cache that this suite needs. Those whose content does not match their name are removed, and files
   that were restored from them get a new time, so that DVC checks them and the next run fetches or makes them again.

`snakemake` does step 1, and removes a torn rwlock file, by itself.
"""

import argparse

from mebm.engine import mend
from mebm.engine.graph import require_project


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no options


def run(args: argparse.Namespace) -> None:
    del args
    require_project()
    print("\n".join([*mend.mend(drop=True), *mend.mend_objects()]) or "nothing to mend")
