"""What the Snakefile asks: the graph with its stale jobs, and what has to hold before the first job starts."""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from snakemake.settings.enums import RerunTrigger

from mebm.engine import locks as engine
from mebm.engine import mend, records
from mebm.engine.graph import PARAMS_STAGE, RECORDS, Graph, Job
from mebm.engine.plan import Plan, cache_folder, make_plan
from mebm.errors import ParamsError
from mebm.files import refuse_links, write_text
from mebm.settings.editing import override, with_values

# Why jobs are stale; newer than everything when it is written. Each process has its own, since Snakemake compares a
# finished output with its inputs once more, and a second command would have made them newer.
REASONS = Path(f".state/stale.{os.getpid()}.txt")
FORCED = Path(".state/forced.txt")  # for processes of the same run elsewhere
FILE = Path("params.yaml")
STAMP = ".snakemake_timestamp"  # whose time Snakemake takes for that of the folder it is in


class Planned:
    """The suite in use as one `snakemake` sees it.

    workflow: Snakemake's, whose settings exist once the graph is built; config: its --config, in which
    set=runs.NAME.train.n_steps=10 plans with the value and, when jobs start, writes it into params.yaml, as
    `dvc exp run -S` does. Raises ParamsError and DataError for what is wrong with either, params.yaml or dvc.lock.
    """

    def __init__(self, workflow, config: dict):
        self._workflow = workflow
        values = config.pop("set", [])
        if config:
            raise ParamsError(f"--config {next(iter(config))}: unknown; known: set=runs.NAME.SECTION.KEY=VALUE")
        if workflow.is_main_process:
            for line in mend.mend():
                print(line, file=sys.stderr)
        if (given := sum(word.startswith("set=") for word in sys.argv)) > 1:
            raise ParamsError(f"--config: set= is given {given} times, and only the last would count; use 'set=[A, B]'")
        if values is None or isinstance(values, dict):
            raise ParamsError("--config set=: is no assignment, expected runs.NAME.SECTION.KEY=VALUE or a list of them")
        self._set = values if isinstance(values, list) else [values]
        self.params = override(FILE, self._set, write=False)
        self.graph = Graph("dvc.yaml", self.params)
        refuse_links(out for job in self.graph.jobs.values() for out in job.outs)
        self._text = with_values(FILE.read_text(encoding="utf-8"), self._set)
        # a process that was told to run one job runs it, whatever its state
        self._plan = make_plan(self.graph, self.params, self._text) if workflow.is_main_process else Plan()

    @cached_property
    def forced(self) -> set[str]:
        """Addresses of the jobs that --forceall, --force or --forcerun ask to compute anew."""
        if not self._workflow.is_main_process:
            return set(FORCED.read_text(encoding="utf-8").split()) if FORCED.is_file() else set()
        settings, jobs = self._workflow.dag_settings, self.graph.jobs.values()
        if settings.forceall:
            return {job.address for job in jobs}
        asked = {*settings.forcerun, *(settings.targets if settings.forcetargets else ())}
        return {job.address for job in jobs if _is_asked(job, asked)}

    @cached_property
    def plan(self) -> Plan:
        """The plan with forced jobs. The first time its reasons are said, and written newer than any output.

        From here on neither profile nor flag brings other triggers than times back, or stops at what a killed job
        left: DVC guards every stage.
        """
        if not self._workflow.is_main_process:
            return self._plan
        settings = self._workflow.dag_settings
        settings.rerun_triggers, settings.force_incomplete = frozenset([RerunTrigger.MTIME]), True
        # where DVC made files, Snakemake would warn that it remembers nothing of them, which does not count here
        self._workflow.log_missing_metadata_info = self._workflow.log_outdated_metadata_info = lambda: None
        plan = make_plan(self.graph, self.params, self._text, forced=self.forced) if self.forced else self._plan
        said = _about_the_cache() + plan.text(self.graph.needed(settings.targets))
        print(said, end="", file=sys.stderr)
        _remove_old_reasons()
        write_text(REASONS, f"{time.time_ns()}\n{said}")  # other bytes each time, so that no recorded hash is its own
        self._date_reasons()
        return plan

    def _date_reasons(self) -> None:
        """Make the file of reasons newer than every output, by the clock of the disk that it lies on.

        What has a time in the future, by a clock that was wrong, gets that of now, since new outputs must be newer.
        """
        now = REASONS.stat().st_mtime
        for out in (Path(out) for job in self.graph.jobs.values() for out in job.outs):
            for path in (out, out / STAMP):
                with suppress(OSError):  # missing, or another user's
                    if path.lstat().st_mtime >= now:
                        os.utime(path, (now - 0.01, now - 0.01), follow_symlinks=False)

    def inputs(self, stage: str, name: str, ancient: Callable[[str], str]) -> list[str]:
        """Inputs of a job for Snakemake: with the file of reasons if it is stale, else such whose times do not count.

        Those of a stale job are no `ancient` ones, because Snakemake asks only the first of several jobs in a row for
        its own reason to run, and finds the others through inputs that count.
        """
        address = f"{stage}@{name}" if name else stage
        first = [] if stage == PARAMS_STAGE else [f"{RECORDS}/{records.ALL}"]
        files = list(dict.fromkeys([*first, *self.graph.inputs(stage, name)]))
        return [*files, str(REASONS)] if address in self.plan.stale else [ancient(path) for path in files]

    def threads(self, stage: str, name: str) -> int:
        """Threads of a job, as the parameter file fixes them."""
        compute = getattr(self.params.resolve(stage, name), "compute", None)
        return compute.cpu_threads if compute else 1

    def devices(self, stage: str, name: str) -> int:
        """GPUs of a job: it takes them itself and waits; --resources gpu=N bounds how many are asked for at once."""
        return self.params.resolve("train", name).compute.devices if stage == "train" else 0

    def start(self) -> None:
        """Before the first job: write the values of --config, or refuse training that would take too long here.

        Raises StateError beside another engine, and ParamsError; params.yaml is then as it was.
        """
        engine.take()
        engine.refuse_beside_others()
        # Elsewhere (Slurm), this machine's speed says nothing: every training checks its own cost where it runs.
        planned = [job for job in self._workflow.dag.needrun_jobs() if job.rule.name == "train"]
        runs = sorted({job.wildcards.name for job in planned} - {address[6:] for address in self.plan.cached})
        before = FILE.read_text(encoding="utf-8")
        override(FILE, self._set, write=True)
        write_text(FORCED, "".join(f"{address}\n" for address in sorted(self.forced)))
        ask = [sys.executable, "-m", "stages.cost", "--runs", *runs]
        if self._workflow.local_exec and runs and subprocess.run(ask, check=False).returncode:
            if self._set:
                write_text(FILE, before)
            raise ParamsError("nothing was started, for the reason above")


def _remove_old_reasons() -> None:
    import psutil

    for path in REASONS.parent.glob("stale.*.txt"):
        number = path.name.split(".")[1]
        if number.isdigit() and not psutil.pid_exists(int(number)):
            path.unlink(missing_ok=True)


def _about_the_cache() -> str:
    """In a second worktree without a cache: how to share that of the first."""
    if not Path(".git").is_file() or cache_folder().exists():
        return ""
    asked = subprocess.run(["git", "rev-parse", "--git-common-dir"], capture_output=True, text=True, check=False)
    first = Path(asked.stdout.strip()).resolve().parent / ".dvc" / "cache"
    if asked.returncode or not first.is_dir():
        return ""
    share = f"`dvc cache dir --local {shlex.quote(str(first))}`"
    return (
        f"note: this worktree has no cache; {share} shares that of the first, and `dvc checkout` takes it from there\n"
    )


def _is_asked(job: Job, targets: set[str]) -> bool:
    return job.stage in targets or any(out in {str(Path(target)) for target in targets} for out in job.outs)
