"""One job as Snakemake starts it: DVC's own single stage, in this process.

    python -m mebm.engine.job [--force] ADDRESS

ADDRESS is DVC's name of the job, such as train@mjem_mnist. DVC decides whether it has to run, restores what its cache
holds, and keeps what is made. In addition, files of DVC that a kill has torn are repaired, damaged objects of the cache
are not restored, and the job waits while another command uses its files. DVC's hint to add dvc.lock to git is left out,
since every job would repeat it.
"""

import logging
import os
import sys
import time
from pathlib import Path

from mebm.engine import failures, mend
from mebm.engine.graph import parts
from mebm.engine.hashes import Hashes
from mebm.engine.lockfile import LOCK, hashes_in, read_lock
from mebm.engine.locks import UNDER_SNAKEMAKE
from mebm.errors import MebmError, one_line

USAGE = 2
HINTS = ("To track the changes with git", "To enable auto staging", "Use `dvc push`")
BUSY = "is busy, it is being blocked by"
PATIENCE = 600.0  # s, in which a command that reads or writes a job's files must leave them


class _Listening(logging.Filter):
    """Leaves out hints that are for people who type DVC's command themselves, and notes why DVC ended."""

    busy = False

    def filter(self, record: logging.LogRecord) -> bool:
        text = f"{record.getMessage()} {record.exc_info[1] if record.exc_info else ''}"
        self.busy |= BUSY in text
        return not self.busy and not any(hint in text for hint in HINTS)


def main(argv: list[str]) -> int:
    force, addresses = "--force" in argv, [word for word in argv if word != "--force"]
    if len(addresses) != 1:
        print("error: usage: python -m mebm.engine.job [--force] ADDRESS, such as train@mjem_mnist", file=sys.stderr)
        return USAGE
    os.environ[UNDER_SNAKEMAKE] = addresses[0]
    # dvc.yaml's `python` is that of this environment
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    try:
        said = mend.mend()
        if not _is_whole(addresses[0]):
            said += mend.mend_objects(addresses)
    except (MebmError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    for line in said:
        print(f"{addresses[0]}: {line}", file=sys.stderr)
    status = _reproduce(addresses[0], force)
    if not status:  # DVC may have brought the result back without running the command, which drops the note itself
        failures.forget(*parts(addresses[0]))
    mend.keep_lock_file()
    return status


def _is_whole(address: str) -> bool:
    """Whether what a job made lies here as recorded, so that nothing is restored."""
    hashes, made = Hashes(), hashes_in(read_lock(LOCK).get(address, {}), "outs")
    return all(hashes.of(out) == hash_ for out, hash_ in made.items())


def _reproduce(address: str, force: bool) -> int:
    """DVC's exit status; where another command uses the job's files, of the first try after it left them."""
    from dvc.cli import main as dvc
    from dvc.ui import ui

    write, until = ui.write, time.monotonic() + PATIENCE
    ui.write = lambda *words, **options: None if _is_hint(words) else write(*words, **options)
    while True:
        listening = _Listening()
        for handler in logging.getLogger("dvc").handlers:
            handler.addFilter(listening)
        status = dvc(["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), address])
        for handler in logging.getLogger("dvc").handlers:
            handler.removeFilter(listening)
        if not listening.busy:
            return status
        mend.mend_rwlock(drop="SLURM_JOB_ID" not in os.environ and "KUBERNETES_SERVICE_HOST" not in os.environ)
        if time.monotonic() > until:
            print(f"error: {address}: another command of DVC uses its files (`dvc status` names it)", file=sys.stderr)
            return status
        time.sleep(1)


def _is_hint(words: tuple) -> bool:
    return any(hint in str(word) for word in words for hint in HINTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
