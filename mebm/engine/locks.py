"""One `snakemake` or `dvc repro` at a time in this folder; jobs that outlived the one that started them count too."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from mebm.errors import StateError

if TYPE_CHECKING:
    import psutil

LOCK = Path(".state/snakemake.lock")
UNDER_SNAKEMAKE = "MEBM_JOB"  # set for jobs that Snakemake started, on whatever machine
_held: list[IO] = []  # until the process ends


def take() -> None:
    """Make this process the only `snakemake` here until it ends. Raises StateError naming the other one."""
    LOCK.parent.mkdir(parents=True, exist_ok=True)
    file = open(LOCK, "a+", encoding="utf-8")  # noqa: SIM115 held until the process ends
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        raise StateError(_busy("snakemake", file.read().strip())) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    _held.append(file)


def refuse_beside_snakemake() -> None:
    """Raises StateError in a job of a `dvc repro` while a `snakemake` is at work here."""
    if UNDER_SNAKEMAKE in os.environ or not LOCK.is_file():
        return
    with open(LOCK, encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StateError(_busy("snakemake", file.read().strip())) from error


def refuse_beside_others() -> None:
    """Raises StateError where a command of DVC, or a job that outlived its engine, is at work in this folder."""
    import psutil

    here, own = str(Path.cwd()), {os.getpid(), *(process.pid for process in psutil.Process().parents())}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.pid in own:
                continue
            what = _engine(process)
            if what and process.cwd() == here and process.status() != psutil.STATUS_ZOMBIE:
                raise StateError(_busy(what, str(process.pid)))


def _engine(process: "psutil.Process") -> str:
    """What a process is, if it makes artifacts in its folder: a command of DVC's, or a job that an engine started."""
    words = process.cmdline()
    for at, word in enumerate(words[:3]):
        said = set(words[at + 1 :])
        if Path(word).name == "dvc":
            experiment = said & {"exp", "experiments"} and said & {"run", "apply"} and not said & {"--temp", "--queue"}
            if experiment or said & {"repro", "checkout", "pull", "commit"}:
                return " ".join(["dvc", *words[at + 1 : at + 4]])
        if word == "-m" and len(words) > at + 1:
            by_engine = words[at + 1].startswith("stages.") and "DVC_STAGE" in process.environ()
            if by_engine or words[at + 1] == "mebm.engine.job":
                return " ".join(words[at + 1 : at + 4])
    return ""


def _busy(what: str, process: str) -> str:
    return f"{what} (process {process or 'unknown'}) is at work in this folder; wait for it, or stop it first"
