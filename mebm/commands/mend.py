"""Put right what a kill, a crash or a failing disk left of DVC's own files.

1. `dvc.lock`, which DVC writes in place: a torn one is replaced by the copy that was kept when the last job started or
   ended, or by that of the last commit. What the job made whose record is missing there, DVC's cache still has.
2. `.dvc/tmp/rwlock`, DVC's record of who reads and writes what: half of one is removed, and entries whose number a
   program on this machine has that is none of DVC's (numbers are used again after a restart). Not while other machines
   of a cluster are at work.
3. Objects of DVC's cache that this suite needs and whose content is not what their name says: they are removed, and
   what was restored from them gets a new time, so that DVC looks at it and the next run fetches or makes it again.

`snakemake` does the first, and of the second what is half a file, by itself.
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
