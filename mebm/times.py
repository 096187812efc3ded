"""File times that agree with DVC: Snakemake compares times, DVC contents, and a pull writes in any order."""

import json
import os
import subprocess
from pathlib import Path

from mebm.errors import DataError
from mebm.pipeline import PARAMS_STAGE, Graph, Job

STAMP = ".snakemake_timestamp"  # whose time Snakemake takes for that of the folder it is in


def settle(graph: Graph) -> None:
    """Give the outputs of jobs that DVC calls unchanged, but that are older than an input, that input's time.

    DVC is asked only where there is such a job, and only jobs that its lock file has. Whatever else DVC says, or that
    it cannot be asked, leaves times as they are: Snakemake then starts a job too many and never one too few.
    """
    if not Path("dvc.lock").is_file() or not any(_is_late(graph, job) for job in graph.jobs.values()):
        return
    try:
        changed = changed_jobs()
    except DataError:
        return
    for job in graph.ordered():
        if job.address not in changed and _is_late(graph, job):
            newest = max(_time(path) for path in graph.inputs(job.stage, job.name))
            for out in _outputs(job):
                for path in (Path(out), Path(out, STAMP)):
                    if path.exists():
                        os.utime(path, ns=(newest, newest))


def changed_jobs() -> list[str]:
    """Addresses of the jobs that DVC would run again. Raises DataError, saying why, where DVC cannot say."""
    command = ("dvc", "status", "--json")
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    except OSError as error:
        raise DataError("dvc: no such command; activate the environment (`source .venv/bin/activate`)") from error
    try:
        return list(json.loads(done.stdout))
    except ValueError as error:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")] or done.stderr.splitlines()
        reason = said[0].removeprefix("ERROR: ") if said else f"exit status {done.returncode}"
        raise DataError(f"`dvc status` fails: {reason}") from error


def _is_late(graph: Graph, job: Job) -> bool:
    """Whether all inputs and outputs of a job are there, and an output is older than an input."""
    inputs = graph.inputs(job.stage, job.name)
    if not all(Path(path).exists() for path in (*inputs, *_outputs(job))):
        return False
    return min(map(_time, _outputs(job))) < max(map(_time, inputs))


def _outputs(job: Job) -> tuple[str, ...]:
    """What Snakemake looks at: of the folder of resolved parameters the one file that is written last."""
    return (f"{job.outs[0]}/all.yaml",) if job.stage == PARAMS_STAGE else job.outs


def _time(path: str) -> int:
    stamp = Path(path, STAMP)
    return (stamp if stamp.is_file() else Path(path)).stat().st_mtime_ns
