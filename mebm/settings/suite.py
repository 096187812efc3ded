"""A checked parameter file: the suite in use, its jobs, and the settings of each job.

mebm/settings/overlay.py says how a job's sections come about; mebm/engine/records.py which of their values decide what
it computes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mebm.errors import ParamsError, clipped, listed, shown
from mebm.settings.entries import Entries, Entry, Run
from mebm.settings.overlay import read_suites
from mebm.settings.reading import NotYaml, parse
from mebm.settings.schema import Dataset, Sample, Train
from mebm.settings.stages import (
    ANALYSIS_STAGES,
    COMPARED_STAGES,
    DATASET_STAGES,
    IMPORTED_STAGES,
    RUN_STAGES,
    STAGES,
    SUITE_STAGES,
    TABLE_STAGES,
    TRAINED_STAGES,
    Row,
    Settings,
)


@dataclass(frozen=True)
class Params(Entries):
    """The parameter file at `path`, as far as the suite in use goes."""

    path: Path

    def jobs(self) -> list[tuple[str, str]]:
        """(stage, name) of every job of the suite, in pipeline order."""
        return [(stage, name) for stages, entries in self._groups().values() for stage in stages for name in entries]

    def resolve(self, stage: str, name: str) -> Settings:
        """The settings of the job of `stage` for the data set, run, table or suite `name`.

        Raises ParamsError for a name that the suite does not have. Any run can be looked at, also one that is not
        listed as `analysed`.
        """
        kind, (_, entries) = next(item for item in self._groups().items() if stage in item[1][0])
        if kind == "analysed":
            kind, entries = "runs", self.runs
        if name not in entries:
            where = f"{kind} of the suite {self.suite!r}"
            raise ParamsError(f"{self.path}: no entry {shown(name)} in {where}; known: {listed(entries)}")
        entry, settings = entries[name], STAGES[stage]
        sections = {key: entry.sections[key] for key in settings.sections()}
        others = {key: make(self, entry) for key, make in OTHERS.items() if key in settings.model_fields}
        return settings.model_construct(name=name, **{**others, **sections})

    def suite_sets(self, section: str, key: str) -> bool:
        """Whether the suite's defaults lie over a shared value."""
        return key in self.defaults.get(section, {})

    def _groups(self) -> dict[str, tuple[Mapping[str, type[Settings]], Mapping[str, Any]]]:
        """By mapping of the suite: the stages that run once per entry of it, and its entries."""
        return {
            "datasets": (DATASET_STAGES, self.datasets),
            "compared": (COMPARED_STAGES, self.compared),
            "trained": (TRAINED_STAGES, self.trained),
            "imported": (IMPORTED_STAGES, self.imported),
            "runs": (RUN_STAGES, self.runs),
            "analysed": (ANALYSIS_STAGES, self.analysed),
            "tables": (TABLE_STAGES, dict.fromkeys(self.tables, self)),
            "suite": (SUITE_STAGES, {self.suite: self}),
        }


# What stages are told besides sections, by the name of the field.
OTHERS: dict[str, Callable[[Params, Any], Any]] = {
    "dataset_name": lambda params, run: run.dataset,
    "compared": lambda params, run: list(params.compared),
    "datasets": lambda params, _: {name: dataset.title for name, dataset in params.datasets.items()},
    "runs": lambda params, _: {name: _row(run, params.datasets[run.dataset]) for name, run in params.runs.items()},
    "differences": lambda params, _: {name: dict(run.differences) for name, run in params.runs.items()},
    "analysed": lambda params, _: list(params.analysed),
    "tables": lambda params, _: list(params.tables),
}


def _row(run: Run, dataset: Entry) -> Row:
    train = run.of(Train)
    return Row(
        method=run.method,
        dataset=run.dataset,
        n_steps=train.n_steps,
        classifies=train.pyx_weight > 0,
        protocols=list(run.of(Sample).protocols),
        imported=run.checkpoint is not None,
        evaluate_on=dataset.of(Dataset).evaluate_on,
    )


def load_params(path: str | Path) -> Params:
    """Read and check a parameter file. Raises ParamsError naming the key, what was found and what is accepted."""
    path = Path(path)
    return parse_params(path, read_params(path))


def read_params(path: Path) -> str:
    """The text of a parameter file. Raises ParamsError where it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ParamsError(f"{path}: is not a regular file, expected a parameter file")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the project's root folder") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not valid YAML: {clipped(str(error), 250)}") from error


def parse_params(path: Path, text: str) -> Params:
    """The checked parameters of a file whose content is `text`. Raises ParamsError as `load_params` does."""
    try:
        return check_params(path, parse(text))
    except NotYaml as error:
        raise ParamsError(f"{path}: is not valid YAML: {clipped(str(error), 250)}") from error


def check_params(path: Path, content: Any) -> Params:
    """The checked parameters of a file that holds `content`. Raises ParamsError as `load_params` does."""
    try:
        return Params(**vars(read_suites(content)), path=path)
    except ParamsError as error:
        raise ParamsError(f"{path}: {error}") from error
