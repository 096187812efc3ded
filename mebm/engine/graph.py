"""The graph of dvc.yaml with its templates filled in, for Snakemake and for the tests."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path, PurePosixPath

import yaml

from mebm.errors import ParamsError, one_line
from mebm.files import BoundedLoader
from mebm.settings.suite import Params

PARAMS_STAGE = "params"
RECORDS = "results/params"  # which that stage makes
IMPORTED = "_imported"  # end of DVC's names for stages of imported runs that trained runs have as well


@dataclass(frozen=True)
class Job:
    """One job. `deps` and `outs` are paths.

    address: DVC's name for it, such as train@mebm_mnist; sample_imported@NAME has the stage `sample`.
    """

    address: str
    stage: str
    name: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]


def parts(address: str) -> tuple[str, str]:
    """Stage and name of DVC's name for a job: ("sample", NAME) for sample@NAME and for sample_imported@NAME."""
    rule, _, name = address.partition("@")
    return rule.removesuffix(IMPORTED), name


class Graph:
    """Jobs of the suite in use, from dvc.yaml and a checked parameter file.

    Understands the part of dvc.yaml that this project uses: `foreach` over data sets, runs, tables or the suite's
    name, the templates ${key}, ${item} and ${item.KEY}, and deps, outs, metrics and plots. Raises ParamsError for
    anything else.
    """

    def __init__(self, path: str | Path, params: Params):
        require_project(path)
        text = Path(path).read_text(encoding="utf-8")
        runs = {"trained": params.trained, "imported": params.imported, "analysed": params.analysed}
        self._entries = {
            **{
                f"${{suite.{kind}}}": {
                    name: {"item.dataset": run.dataset, "item.checkpoint": run.checkpoint or ""}
                    for name, run in entries.items()
                }
                for kind, entries in runs.items()
            },
            "${suite.datasets}": {name: {} for name in params.datasets},
            "${suite.compared}": {name: {} for name in params.compared},
            "${suite.tables}": {name: {"item": name} for name in params.tables},
            ("${suite.name}",): {params.suite: {"item": params.suite}},
        }
        try:
            self._definitions = dict(yaml.load(text, Loader=BoundedLoader)["stages"])
        except (yaml.YAMLError, KeyError, TypeError, ValueError) as error:
            raise ParamsError(
                f"{path}: is not a pipeline ({one_line(error)}); restore it from version control"
            ) from error
        self.stages: list[str] = []
        self._patterns: dict[str, list[str]] = {}
        self.jobs: dict[str, Job] = {}
        for rule, definition in self._definitions.items():
            stage = rule.removesuffix(IMPORTED)
            self.stages += [stage] if stage not in self.stages else []
            if "foreach" not in definition:
                self._add(stage, stage, "", definition, {})
                continue
            over, each = definition["foreach"], definition["do"]
            outs = _outputs(each)
            self._patterns[stage] = [out.replace("${key}", "{name}").replace("${item}", "{name}") for out in outs]
            entries = self._entries.get(tuple(over) if isinstance(over, list) else over)
            if entries is None:
                raise ParamsError(f"{path}: stages.{stage}.foreach: is {over!r}, which is not understood")
            for name, values in entries.items():
                self._add(f"{rule}@{name}", stage, name, each, {"key": name, **values})

    def address(self, stage: str, name: str = "") -> str:
        """DVC's name of a job."""
        address = f"{stage}@{name}" if name else stage
        return address if address in self.jobs else f"{stage}{IMPORTED}@{name}"

    def of(self, stage: str) -> list[Job]:
        """The jobs of a stage."""
        return [job for job in self.jobs.values() if job.stage == stage]

    def ordered(self) -> list[Job]:
        """All jobs, each after those whose outputs it reads."""
        return [self.jobs[address] for address in TopologicalSorter(self._needs).static_order()]

    @cached_property
    def _needs(self) -> dict[str, set[str]]:
        """Jobs whose outputs a job reads, by address; all read the records of the first one."""
        maker = {out: job.address for job in self.jobs.values() for out in job.outs}
        first = {PARAMS_STAGE} & set(self.jobs)
        return {
            job.address: {
                maker[str(path)]
                for dep in self.inputs(job.stage, job.name)
                for path in (PurePosixPath(dep), *PurePosixPath(dep).parents)
                if str(path) in maker
            }
            | (first - {job.address})
            for job in self.jobs.values()
        }

    def inputs(self, stage: str, name: str = "") -> list[str]:
        """Dependencies of a job without its record: a folder stands for every output of the graph inside it."""
        files = []
        for dep in self.jobs[self.address(stage, name)].deps:
            if PurePosixPath(dep).parent != PurePosixPath(RECORDS):
                files += self.folders.get(dep, [dep])
        return files

    @cached_property
    def folders(self) -> dict[str, list[str]]:
        """Folders that jobs read as a whole and other jobs write into, with the outputs of the graph inside them.

        They count as such also where this suite has no job that writes there. A folder of the user's own is none.
        """
        deps = {dep for job in self.jobs.values() for dep in job.deps if not PurePosixPath(dep).suffix}
        outs = [out for job in self.jobs.values() for out in job.outs]
        written = [*outs, *(pattern for patterns in self._patterns.values() for pattern in patterns)]
        gathered = [dep for dep in sorted(deps) if any(path.startswith(f"{dep}/") for path in written)]
        return {dep: [out for out in outs if out.startswith(f"{dep}/")] for dep in gathered}

    def needed(self, targets: Iterable[str]) -> set[str]:
        """Addresses of the jobs that targets ask for, with all that those need. No target asks for everything.

        A target is a job's address, a stage, or a path that a job makes or that lies in one; others ask for nothing.
        """
        targets = [target.rstrip("/") for target in targets]
        asked = {
            job.address
            for job in self.jobs.values()
            for target in targets
            if target in (job.address, job.stage) or any(f"{target}/".startswith(f"{out}/") for out in job.outs)
        }
        if not targets or "all" in targets:
            return set(self.jobs)
        queue = list(asked)
        while queue:
            for address in self._needs[queue.pop()]:
                if address not in asked:
                    asked.add(address)
                    queue.append(address)
        return asked

    def options(self, stage: str, run: str) -> dict[str, str]:
        """Options of the command with which a stage looks at a run of the suite: {"checkpoint": path, ...}."""
        runs = self._entries["${suite.trained}"] | self._entries["${suite.imported}"]
        values = {"key": run, **runs[run]}
        words = _fill(self._definitions[stage]["do"]["cmd"], values, stage).split()
        return {word[2:]: value for word, value in pairwise(words) if word.startswith("--")}

    def patterns(self, stage: str) -> list[str]:
        """Outputs of a stage with the job's name as the wildcard {name}; none for a stage without jobs."""
        return self._patterns[stage] if self.of(stage) else []

    def _add(self, address: str, stage: str, name: str, definition: dict, values: dict[str, str]) -> None:
        def fill(template: str) -> str:
            return _fill(template, values, stage)

        self.jobs[address] = Job(
            address,
            stage,
            name,
            fill(" ".join(definition["cmd"].split())),
            tuple(map(fill, _paths(definition, "deps"))),
            tuple(map(fill, _outputs(definition))),
        )


def require_project(path: str | Path = "dvc.yaml") -> None:
    """Raises ParamsError where there is no graph, as in another folder than the project's."""
    if not Path(path).is_file():
        raise ParamsError(f"{path}: no such file; run from the project's root folder")


def _fill(template: str, values: dict[str, str], stage: str) -> str:
    for key, value in values.items():
        template = template.replace(f"${{{key}}}", value)
    if "${" in template:
        raise ParamsError(f"dvc.yaml: stages.{stage}: {template!r} holds a template that is not understood")
    return template


def _outputs(definition: dict) -> list[str]:
    return [path for kind in ("outs", "metrics", "plots") for path in _paths(definition, kind)]


def _paths(definition: dict, kind: str) -> list[str]:
    """Paths of a stage's definition; an entry with options is a mapping of the path to them."""
    return [next(iter(entry)) if isinstance(entry, dict) else entry for entry in definition.get(kind, [])]
