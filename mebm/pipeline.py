"""The graph of dvc.yaml with its templates filled in, for Snakemake and for the tests."""

from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path, PurePosixPath

import yaml

from mebm.errors import ParamsError
from mebm.params import Params

PARAMS_STAGE = "params"


@dataclass(frozen=True)
class Job:
    """One job: `address` is DVC's name for it (train@mebm_mnist), `deps` and `outs` are paths."""

    address: str
    stage: str
    name: str
    cmd: str
    deps: tuple[str, ...]
    outs: tuple[str, ...]


class Graph:
    """Jobs of the suite in use, from dvc.yaml and a checked parameter file.

    Understands the part of dvc.yaml that this project uses: `foreach` over data sets, runs, tables or the suite's
    name, the templates ${key}, ${item} and ${item.KEY}, and deps, outs, metrics and plots. Raises ParamsError for
    anything else.
    """

    def __init__(self, path: str | Path, params: Params):
        text = Path(path).read_text(encoding="utf-8")
        self._entries = {
            **{
                f"${{suite.{kind}}}": {
                    name: {f"item.{key}": value for key, value in entry.items() if isinstance(value, str)}
                    for name, entry in getattr(params, kind).items()
                }
                for kind in ("datasets", "compared", "trained", "imported", "runs", "analysed")
            },
            "${suite.tables}": {name: {"item": name} for name in params.tables},
            ("${suite.name}",): {params.suite: {"item": params.suite}},
        }
        self._definitions = yaml.safe_load(text)["stages"]
        self.stages: list[str] = []
        self._patterns: dict[str, list[str]] = {}
        self.jobs: dict[str, Job] = {}
        for stage, definition in self._definitions.items():
            self.stages.append(stage)
            if "foreach" not in definition:
                self._add(stage, stage, "", definition, {})
                continue
            over, each = definition["foreach"], definition["do"]
            outs = _outputs(each)
            self._patterns[stage] = [out.replace("${key}", "{name}").replace("${item}", "{name}") for out in outs]
            for name, values in self._entries[tuple(over) if isinstance(over, list) else over].items():
                self._add(f"{stage}@{name}", stage, name, each, {"key": name, **values})

    def of(self, stage: str) -> list[Job]:
        """The jobs of a stage."""
        return [job for job in self.jobs.values() if job.stage == stage]

    def ordered(self) -> list[Job]:
        """All jobs, each after those whose outputs it reads."""
        maker = {out: job.address for job in self.jobs.values() for out in job.outs}
        needs = {
            job.address: {
                maker[str(path)]
                for dep in self.inputs(job.stage, job.name)
                for path in (PurePosixPath(dep), *PurePosixPath(dep).parents)
                if str(path) in maker
            }
            for job in self.jobs.values()
        }
        return [self.jobs[address] for address in TopologicalSorter(needs).static_order()]

    def inputs(self, stage: str, name: str = "") -> list[str]:
        """Dependencies of a job as files: a folder stands for every output of the graph inside it."""
        files = []
        for dep in self.jobs[f"{stage}@{name}" if name else stage].deps:
            is_file = PurePosixPath(dep).suffix
            outs = () if is_file else (out for job in self.jobs.values() for out in job.outs)
            inside = [out for out in outs if out.startswith(f"{dep}/")]
            files += inside or [dep]
        return files

    def options(self, stage: str, run: str) -> dict[str, str]:
        """Options of the command with which a stage looks at a run of the suite: {"checkpoint": path, ...}."""
        values = {"key": run, **self._entries["${suite.runs}"][run]}
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
