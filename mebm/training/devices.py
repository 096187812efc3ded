"""The device that a job computes on, and how training jobs on one machine share its GPUs.

Each training takes a GPU that no other training has, until its process ends. In a Slurm job only the trainings of the
same job share GPUs: no other job has those that Slurm gave this one, though each may call its first GPU 0.
"""

import fcntl
import os
import platform
import re
import time
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mebm.errors import ParamsError, StateError
from mebm.folders import own_folder
from mebm.settings.schema import Compute

if TYPE_CHECKING:
    import torch

FAKE = "MEBM_DEVICES"  # ids to share out instead of those found, to try the sharing without GPUs
_NUMBER = r"\+?[0-9]+"
_IDS = (_NUMBER, "GPU-", "MIG-")  # a list holds one kind, as CUDA has it
_held: list = []  # open lock files: closing one frees its device
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA sums in an order of its own


def device_for(compute: Compute, claimed: str | None = None) -> "torch.device":
    """The torch device that `compute` asks for, with its threads and determinism set.

    claimed: the GPU that this process took for itself, which is then the only one that it sees. Raises ParamsError
    where there is no such device.
    """
    import torch

    torch.set_num_threads(compute.cpu_threads)
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        # Unlike use_deterministic_algorithms this does not import PyTorch's compiler, which takes seconds.
        torch.set_deterministic_debug_mode("error" if compute.deterministic else "default")
        # Determinism also fills every new tensor with NaN, at a launch each; nothing here reads what it did not write.
        torch.utils.deterministic.fill_uninitialized_memory = False
        torch.backends.cudnn.benchmark = not compute.deterministic
        if claimed is not None:  # one id, or the number of this process among several
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if compute.device.startswith("cuda") and not has_cuda:
        raise ParamsError(f"compute.device is {compute.device}, but there is no CUDA device; set it to auto or cpu")
    if compute.device == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    return torch.device(compute.device)


def visible_ids() -> list[str]:
    """Ids of the GPUs that this process may use, found without starting CUDA.

    CUDA_VISIBLE_DEVICES is read as CUDA does: ids count up to the first that names no GPU (a negative or too large
    number, a word, nothing), and one that stands there twice hides all. Ids come back as they were given, without
    blanks around them. Without it CUDA numbers the GPUs that it finds from 0, whatever their files are called.
    """
    if FAKE in os.environ:
        return [word for word in os.environ[FAKE].split(",") if word]
    found = _n_files()
    if "CUDA_VISIBLE_DEVICES" not in os.environ:
        return [str(index) for index in range(found)]
    words = [word.strip() for word in os.environ["CUDA_VISIBLE_DEVICES"].split(",")]
    kind = next((kind for kind in _IDS if re.match(kind, words[0])), None)

    def names_one(word: str) -> bool:
        if not re.match(kind, word):
            return False
        return kind != _NUMBER or not found or int(_same(word)) < found

    ids = list(takewhile(names_one, words)) if kind else []
    return ids if len({_same(word) for word in ids}) == len(ids) else []


def _n_files() -> int:
    """Number of GPUs that have a file; 0 as well where they have none, as under WSL."""
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _same(word: str) -> str:
    """An id without what makes no difference: 01 and +1 are 1."""
    number = re.match(_NUMBER, word)
    return str(int(number[0])) if number else word


def claim(device: str, say: Callable[[str], None], count: int = 1, poll: float = 1.0) -> str | None:
    """Take `count` GPUs for this process and make them the only ones that CUDA sees; wait while too many are taken.

    device: "auto" or "cuda" for any, "cuda:N" for the N-th visible one, "cpu" for none. Returns the ids, joined by
    commas, or None without GPUs. To be called before CUDA starts. Raises ParamsError for more than there are, DataError
    or StateError where this user has no folder for the locks.
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
    folder = own_folder("devices")
    told = False
    while True:
        taken: dict[str, IO] = {}
        for name in ids:
            file = _lock(folder / _lock_name(name))
            if file is None:
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


def _lock_name(device: str) -> str:
    """A file's name for a device of this machine: several may share a home."""
    words = [platform.node(), os.environ.get("SLURM_JOB_ID", ""), _same(device)]
    return ".".join(re.sub(r"[^\w-]", "_", word) for word in words if word)


def _lock(path: Path) -> IO | None:
    """The locked file, or None where another process has it. Raises StateError where files cannot be locked at all."""
    try:
        file = open(path, "a", encoding="utf-8")  # noqa: SIM115 held until the process ends
    except OSError as error:
        raise StateError(f"{path}: cannot be opened ({error.strerror}); check the folder's permissions") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise StateError(
            f"{path}: cannot be locked ({error.strerror}), so GPUs cannot be shared out; set XDG_CACHE_HOME to a "
            "folder on a disk of this machine"
        ) from error
    return file
