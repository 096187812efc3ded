"""GPUs shared out between training jobs on one machine: each takes one that no other has, until its process ends.

In a Slurm job only those of the same job share: what Slurm gave one job no other has, though all may call theirs 0.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from mebm.errors import ParamsError

FAKE = "MEBM_DEVICES"  # ids to share out instead of those found, to try the sharing without GPUs
_held: list = []  # open lock files: closing one frees its device


def visible_ids() -> list[str]:
    """Ids of the GPUs that this process may use, found without starting CUDA."""
    if FAKE in os.environ:
        return os.environ[FAKE].split(",")
    if "CUDA_VISIBLE_DEVICES" in os.environ:
        ids = os.environ["CUDA_VISIBLE_DEVICES"].strip()
        return ids.split(",") if ids not in ("", "-1") else []
    return sorted(re.sub(r"\D", "", path.name) for path in Path("/dev").glob("nvidia[0-9]*"))


def claim(device: str, say: Callable[[str], None], count: int = 1, poll: float = 1.0) -> str | None:
    """Take `count` GPUs for this process and make them the only ones that CUDA sees; wait while too many are taken.

    device: "auto" or "cuda" for any, "cuda:N" for the N-th visible one, "cpu" for none. Returns the ids, joined by
    commas, or None without GPUs. To be called before CUDA starts. Raises ParamsError for more than there are.
    """
    ids = visible_ids()
    if device == "cpu" or not ids:
        return None
    if ":" in device:
        index = int(device.split(":")[1])
        if index >= len(ids):
            raise ParamsError(f"compute.device is {device}, but {len(ids)} GPUs are visible; lower it, or set auto")
        ids = [ids[index]]
    if count > len(ids):
        raise ParamsError(f"compute.devices is {count}, but {len(ids)} GPUs are visible; lower it")
    folder = Path(tempfile.gettempdir()) / f"mebm-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    job = os.environ.get("SLURM_JOB_ID")
    told = False
    while True:
        taken: dict[str, IO] = {}
        for name in ids:
            lock = folder / re.sub(r"\W", "_", f"{job}.{name}" if job else name)
            file = open(lock, "a")  # noqa: SIM115 held until the process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            taken[name] = file
            if len(taken) == count:
                for held in taken.values():
                    os.set_inheritable(held.fileno(), True)  # torchrun, which takes this process's place, keeps them
                _held.extend(taken.values())
                os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(taken)
                return ",".join(taken)
        for file in taken.values():  # all or none, so that two jobs never wait for each other
            file.close()
        if not told:
            say(f"waiting for one of the GPUs {', '.join(ids)}: all are training")
            told = True
        time.sleep(poll)
