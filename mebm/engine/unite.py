"""Two branches that each trained something, in one lock file, so that nothing is trained again.

Jobs that only one side has are all taken. If both sides have different results of a job, the side is taken whose record
fits params.yaml as it is now and whose inputs are among those already taken. If both sides fit, or neither, ours is
taken; where it is out of date, the job is stale.
"""

import subprocess
import sys
from collections.abc import Iterable

from mebm.engine import records
from mebm.engine.graph import RECORDS, Graph, require_project
from mebm.engine.hashes import md5
from mebm.engine.lockfile import LOCK, dump, hashes_in, parse, read_lock
from mebm.errors import DataError
from mebm.files import write_text
from mebm.settings.suite import load_params


def unite(
    ours: dict[str, dict], theirs: dict[str, dict], present: dict[str, str], order: Iterable[str] = ()
) -> dict[str, dict]:
    """The jobs of both lock files by address.

    present: MD5 of each record as it is now, by path; order: addresses, each after those whose outputs it reads, since
    of two jobs that fit the one counts that was made from what was taken so far.
    """
    made: dict[str, str] = {}

    def score(job: dict) -> tuple[bool, bool]:
        deps = hashes_in(job, "deps")
        own = [path for path in deps if path in present]
        fits = bool(own) and all(deps[path] == present[path] for path in own)
        return fits, all(made.get(path, hash_) == hash_ for path, hash_ in deps.items())

    united = {}
    for address in dict.fromkeys([*order, *ours, *theirs]):
        sides = [side[address] for side in (ours, theirs) if address in side]
        if sides:
            united[address] = max(sides, key=score)  # the first of equals
            made |= hashes_in(united[address], "outs")
    return united


def unite_here(revision: str | None) -> tuple[dict[str, dict], int]:
    """Write the jobs of both sides into this folder's lock file, and check their outputs out.

    revision: whose lock file is the other side; None for the merge in progress. Returns the jobs by address, and how
    many are of the other side. Raises DataError where there is no merge, or no such revision.
    """
    require_project()
    ours, theirs = _sides(revision)
    settings = load_params("params.yaml")
    present = {f"{RECORDS}/{name}": md5(text.encode()) for name, text in records.texts(settings).items()}
    order = [job.address for job in Graph("dvc.yaml", settings).ordered()]
    united = unite(ours, theirs, present, order)
    write_text(LOCK, dump(united))
    # it ends with an error where a job of the suite has never run, which is no matter here
    subprocess.run([sys.executable, "-m", "dvc", "checkout", "--quiet"], check=False, capture_output=True)
    return united, sum(united[address] is theirs[address] for address in theirs)


def _sides(revision: str | None) -> tuple[dict[str, dict], dict[str, dict]]:
    """Our jobs and theirs. Raises DataError where there is no merge in progress, or no such revision."""
    if revision is not None:
        return read_lock(LOCK), _at(f"{revision}:./{LOCK}", f"{revision}: holds no {LOCK}, or is not a revision")
    missing = f"{LOCK}: no merge conflict here; name a revision, or start with `git merge`"
    return _at(f":2:./{LOCK}", missing), _at(f":3:./{LOCK}", missing)


def _at(name: str, missing: str) -> dict[str, dict]:
    done = subprocess.run(["git", "show", name], capture_output=True, check=False)
    if done.returncode:
        raise DataError(missing)
    return parse(done.stdout.decode(errors="replace"), name)
