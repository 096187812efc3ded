"""What the Snakefile needs: the graph with its stale jobs, and the checks before the first job starts.

Reading the Snakefile changes nothing, except that `.state` keeps hashes to be faster next time. All other changes are
made by `Planned.start`, which Snakemake calls when jobs are about to start.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from snakemake.cli import get_argument_parser, parse_config
from snakemake.io import ancient, directory, report
from snakemake.settings.enums import RerunTrigger

from mebm.engine import locks, mend, records, refusal
from mebm.engine.graph import PARAMS_STAGE, RECORDS, Graph, Job
from mebm.engine.lockfile import cache_folder
from mebm.engine.plan import Plan, make_plan
from mebm.errors import MebmError, ParamsError, one_line, shown
from mebm.files import refuse_links, write_text
from mebm.settings.editing import override, with_values
from mebm.settings.schema import Gaussian

PYTHON = shlex.quote(sys.executable)
ALL = f"{RECORDS}/{records.ALL}"  # written last of the records
FORCED = Path(".state/forced.txt")  # for processes of the same run elsewhere
FILE = Path("params.yaml")
CAPTIONS = "mebm/engine/captions"  # seen from the Snakefile
SHOWN = {  # by `snakemake --report`: outputs by category, which is also the name of their caption
    "page": r"results/\{name\}/report\.html",
    "tables": r"results/tables/.*\.csv",
    "samples": r".*/(grid|initial|classwise|heldout)\.png",
    "figures": r".*/figures",
}
STAMP = ".snakemake_timestamp"  # whose time Snakemake takes for that of the folder it is in


def open_plan(workflow: Any, config: dict) -> "Planned":
    """The suite in use as one `snakemake` sees it; ends the process with one line for what is wrong with it."""
    try:
        return Planned(workflow, config)
    except MebmError as error:
        _stop(error)


def _stop(error: Exception) -> NoReturn:
    print(f"error: {one_line(error)}", file=sys.stderr)
    sys.exit(1)


class Planned:
    """The graph with its stale jobs, in the forms in which rules of Snakemake's take them.

    workflow: Snakemake's, whose settings exist once the graph is built; config: its --config, in which
    set=runs.NAME.train.n_steps=10 plans with the value and, when jobs start, writes it into params.yaml, as
    `dvc exp run -S` does. Raises ParamsError and DataError for what is wrong with either, params.yaml or dvc.lock.
    """

    def __init__(self, workflow: Any, config: dict):
        self._workflow = workflow
        self._set = _assignments(config)
        self.params = override(FILE, self._set, write=False)
        self.graph = Graph("dvc.yaml", self.params)
        refuse_links(out for job in self.graph.jobs.values() for out in job.outs)
        self._text = with_values(FILE.read_text(encoding="utf-8"), self._set)
        # a process that was told to run one job runs it, whatever its state
        self._lock, self._torn = mend.read_mended() if workflow.is_main_process else ({}, [])
        self._plan = self._planned() if workflow.is_main_process else Plan()

    def _planned(self, forced: set[str] = frozenset()) -> Plan:
        plan = make_plan(self.graph, self.params, self._text, forced=forced, lock=self._lock)
        if self._torn:  # so that a job starts, before which they are mended
            plan.own.setdefault(PARAMS_STAGE, []).extend(self._torn)
        return plan

    @property
    def stages(self) -> list[str]:
        """Stages with jobs in this suite, in the order of dvc.yaml, without `params`."""
        return [stage for stage in self.graph.stages if stage != PARAMS_STAGE and self.graph.of(stage)]

    @property
    def targets(self) -> list[str]:
        """All files of the suite."""
        return [out for job in self.graph.jobs.values() for out in _products(job)]

    def names(self, stage: str) -> list[str]:
        """What the wildcard {name} of a rule can be."""
        return [job.name for job in self.graph.of(stage)]

    def inputs(self, stage: str) -> Callable:
        """An input function: the files that a job reads.

        `ancient` are those of jobs that are not stale. Those of a stale job are not, because Snakemake asks only the
        first of several jobs in a row for its own reason to run, and finds the others through inputs that count.
        """

        def of(wildcards: Any) -> list[str]:
            name = wildcards.get("name", "")
            first = [] if stage == PARAMS_STAGE else [ALL]
            files = list(dict.fromkeys([*first, *self.graph.inputs(stage, name)]))
            return files if self.graph.address(stage, name) in self.plan.stale else [ancient(path) for path in files]

        return of

    def outputs(self, stage: str) -> list[str]:
        """What a rule makes; outputs without a suffix are folders."""
        if stage == PARAMS_STAGE:
            return [ALL]
        # where no Gaussians of classes are fitted, the picture of their draws is black
        classes = any(dataset.of(Gaussian).classwise for dataset in self.params.datasets.values())
        hidden = () if classes else ("classwise.png",)
        return [out if Path(out).name in hidden else _reported(stage, out) for out in self.graph.patterns(stage)]

    def job(self, stage: str) -> Callable:
        """A function for `params`: DVC's name of a job."""
        return lambda wildcards: self.graph.address(stage, wildcards.name)

    def force(self, stage: str) -> Callable:
        """A function for `params`: the option with which a job is computed anew, or nothing."""
        return lambda wildcards: (
            "--force" if self.graph.address(stage, wildcards.get("name", "")) in self.forced else ""
        )

    def threads(self, stage: str) -> Callable:
        """A function for `threads`, as the parameter file fixes them."""

        def of(wildcards: Any) -> int:
            compute = getattr(self.params.resolve(stage, wildcards.name), "compute", None)
            return compute.cpu_threads if compute else 1

        return of

    def devices(self, stage: str) -> Callable:
        """A function for `resources`: GPUs of a training, which takes them itself and waits.

        --resources gpu=N bounds how many are asked for at once.
        """
        return lambda wildcards: self.params.resolve(stage, wildcards.name).compute.devices if stage == "train" else 0

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
        """The plan with forced jobs, which the first input function asks for; its reasons are said then.

        Stale jobs are handed to Snakemake as --forcerun does with files. From here on neither profile nor flag brings
        other triggers than times back, or stops at what a killed job left: DVC guards every stage.
        """
        if not self._workflow.is_main_process:
            return self._plan
        settings = self._workflow.dag_settings
        settings.rerun_triggers, settings.force_incomplete = frozenset([RerunTrigger.MTIME]), True
        # where DVC made files, Snakemake would warn that it remembers nothing of them, which does not count here
        self._workflow.log_missing_metadata_info = self._workflow.log_outdated_metadata_info = lambda: None
        plan = self._planned(self.forced) if self.forced else self._plan
        self._refuse_missing(plan, settings.targets)
        stale = (self.graph.jobs[address] for address in plan.stale)
        self._workflow.dag.forcefiles.update(out for job in stale for out in _products(job))
        torn = "".join(f"note: {line}, and is repaired before jobs start\n" for line in self._torn)
        print(_about_the_cache() + torn + plan.text(self.graph.needed(settings.targets)), end="", file=sys.stderr)
        return plan

    def _refuse_missing(self, plan: Plan, targets: Iterable[str]) -> None:
        """End the process where a checkpoint to import is not there, before Snakemake misses it."""
        runs = refusal.stale_runs(self.graph, plan, "import_checkpoint", targets)
        missing = [run for run in runs if not Path(self.params.imported[run].checkpoint).exists()]
        try:
            refusal.check_imports(self.params, missing)
        except MebmError as error:
            _stop(error)

    def start(self) -> None:
        """Before the first job: mend, write the values of --config, or refuse what would fail late.

        Ends the process with one line beside another engine, and where something is refused; params.yaml is then as it
        was.
        """
        try:
            locks.take()
            locks.refuse_beside_others()
            for line in mend.mend():
                print(line, file=sys.stderr)
            self._refuse_or_write()
            self._settle_times()
        except (MebmError, OSError) as error:
            _stop(error)

    def _refuse_or_write(self) -> None:
        # Elsewhere (Slurm), this machine's speed says nothing: every training checks its own cost where it runs.
        stages = ("train", "import_checkpoint") if self._workflow.local_exec else ("import_checkpoint",)
        planned = {
            (job.rule.name, job.wildcards.name) for job in self._workflow.dag.needrun_jobs() if job.rule.name in stages
        }
        runs = sorted(name for stage, name in planned if self.graph.address(stage, name) not in self.plan.cached)
        before = FILE.read_text(encoding="utf-8")
        override(FILE, self._set, write=True)
        write_text(FORCED, "".join(f"{address}\n" for address in sorted(self.forced)))
        ask = [sys.executable, "-m", "mebm", "cost", "--runs", *runs]  # apart, since it imports torch
        if runs and subprocess.run(ask, check=False).returncode:
            if self._set:
                write_text(FILE, before)
            raise ParamsError("nothing was started, for the reason above")

    def _settle_times(self) -> None:
        """Give what has a time in the future, by a clock that was wrong, that of now.

        Snakemake compares the outputs of every job that it ran with its inputs, and would end.
        """
        now = time.time()
        for out in (Path(out) for job in self.graph.jobs.values() for out in job.outs):
            for path in (out, out / STAMP):
                with suppress(OSError):  # missing, or another user's
                    if path.lstat().st_mtime > now:
                        os.utime(path, (now, now), follow_symlinks=False)


def refuse_odd_config() -> None:
    """End the process with one line where Snakemake's command line has a --config that it would end in a traceback for.

    A profile calls this, which Snakemake reads before it looks at those words, and before the Snakefile.
    """
    for word in get_argument_parser().parse_args().config or ():
        try:
            parse_config([word])
        except ValueError:
            _stop(
                ParamsError(
                    f"--config {shown(word)}: expected set=runs.NAME.SECTION.KEY=VALUE; files and jobs to make come "
                    "before --config"
                )
            )


def _assignments(config: dict) -> list[str]:
    """What --config says in `set`. Raises ParamsError for anything else in it."""
    values = config.pop("set", [])
    if config:
        raise ParamsError(f"--config {next(iter(config))}: unknown; known: set=runs.NAME.SECTION.KEY=VALUE")
    if (given := sum(word.startswith("set=") for word in sys.argv)) > 1:
        raise ParamsError(f"--config: set= is given {given} times, and only the last would count; use 'set=[A, B]'")
    if values is None or isinstance(values, dict):
        raise ParamsError(f"--config set=: is {shown(values)}, expected runs.NAME.SECTION.KEY=VALUE or a list of them")
    return values if isinstance(values, list) else [values]


def _products(job: Job) -> tuple[str, ...]:
    """What a job makes by the names that Snakemake's rules have for it."""
    return (ALL,) if job.stage == PARAMS_STAGE else job.outs


def _is_asked(job: Job, targets: set[str]) -> bool:
    return job.stage in targets or any(out in {str(Path(target)) for target in targets} for out in _products(job))


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


def _reported(stage: str, out: str) -> Any:
    """An output with Snakemake's marks: of a folder, and of what `snakemake --report` shows, with its caption.

    Only what the report can show is marked, which needs no record of Snakemake's own: files that DVC made or pulled do.
    """
    file = out if "." in Path(out).name else directory(out)
    kind = next((kind for kind, pattern in SHOWN.items() if re.fullmatch(pattern, out)), None)
    if kind is None:
        return file
    labels = {"of": "{name}", "stage": stage}
    if kind != "figures":
        return report(file, f"{CAPTIONS}/{kind}.rst", category=kind, labels={**labels, "file": Path(out).name})
    patterns, labels = ["{picture}.svg", "{picture}.png"], {**labels, "picture": "{picture}"}
    return report(file, f"{CAPTIONS}/{kind}.rst", category=kind, subcategory=stage, patterns=patterns, labels=labels)
