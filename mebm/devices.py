"""GPUs shared out between training jobs on one machine: each takes one that no other has, until its process ends."""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

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


def claim(device: str, say: Callable[[str], None], poll: float = 1.0) -> str | None:
    """Take a GPU for this process and make it the only one that CUDA sees; wait while all are taken.

    device: "auto" or "cuda" for any, "cuda:N" for the N-th visible one, "cpu" for none. Returns the id, or None
    without GPUs. To be called before CUDA starts. Raises ParamsError for an N that there is not.
    """
    ids = visible_ids()
    if device == "cpu" or not ids:
        return None
    if ":" in device:
        index = int(device.split(":")[1])
        if index >= len(ids):
            raise ParamsError(f"compute.device is {device}, but {len(ids)} GPUs are visible; lower it, or set auto")
        ids = [ids[index]]
    folder = Path(tempfile.gettempdir()) / f"mebm-devices-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    told = False
    while True:
        for name in ids:
            file = open(folder / re.sub(r"\W", "_", name), "a")  # noqa: SIM115 held until the process ends
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.close()
                continue
            _held.append(file)
            os.environ["CUDA_VISIBLE_DEVICES"] = name
            return name
        if not told:
            say(f"waiting for one of the GPUs {', '.join(ids)}: all are training")
            told = True
        time.sleep(poll)
