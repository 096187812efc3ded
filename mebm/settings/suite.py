"""A checked parameter file: the suite in use, and each job's sections with the suite's and its own differences.

A section of the file belongs to the stage of the same name. Top-level sections hold the values that all runs share;
`defaults.SECTION` of a suite, `datasets.NAME.SECTION` and `trained.NAME.SECTION` (or `imported.NAME.SECTION`) hold
differences only, and so does `runs.NAME.SECTION`, which is for command lines and lies over a suite's own runs.
`resolve` lays one over the other and gives a stage the sections that it reads; mebm/engine/records.py says which of
their values decide what a job computes.
"""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from pydantic import ValidationError

from mebm.errors import ParamsError, clipped, listed, named, shown
from mebm.settings import checks
from mebm.settings.reading import parse_yaml
from mebm.settings.schema import (
    MADE_SETS,
    NAME_PATTERN,
    OTHER_KEYS,
    PATH_PATTERN,
    PUBLISHED_COUNTS,
    RESERVED,
    SECTIONS,
    SIDES,
    TABLES,
    TITLES,
    Dataset,
)
from mebm.settings.stages import (
    ANALYSIS_STAGES,
    COMPARED_STAGES,
    DATASET_STAGES,
    IMPORTED_STAGES,
    RUN_SECTIONS,
    RUN_STAGES,
    SUITE_STAGES,
    TABLE_STAGES,
    TRAINED_STAGES,
    sections_of,
)
from mebm.settings.wording import explain, found, unknown


class Params:
    """A validated parameter file.

    `suite`, `datasets`, `compared`, `trained`, `imported`, `runs` (both of these together), `analysed` (those of the
    runs that are looked at closely) and `tables` are of the suite in use.
    """

    def __init__(self, path: Path, raw: dict):
        self.path = path
        self._raw = raw
        self._check_shape()
        self._overlay_runs()
        suite = raw["suite"]
        for other in (suite, *raw["suites"].values()):
            self._check_suite(other)
        self.suite: str = suite["name"]
        self.datasets: dict[str, dict] = suite["datasets"]
        self.compared: dict[str, dict] = suite["compared"]
        self.trained: dict[str, dict] = suite["trained"]
        self.imported: dict[str, dict] = suite["imported"]
        self.runs: dict[str, dict] = {**self.trained, **self.imported}
        self.analysed: dict[str, dict] = suite["analysed"]
        self.tables: list[str] = suite["tables"]

    def resolve(self, stage: str, name: str) -> SimpleNamespace:
        """The sections that `stage` reads for the data set, run, table or suite `name`, as typed attributes.

        Also `name`, and `dataset_name` for a run. Raises ParamsError for a name that the suite does not have.
        """
        return SimpleNamespace(
            **{
                key: SECTIONS[key].model_construct(**value) if key in SECTIONS and isinstance(value, dict) else value
                for key, value in self.resolved(stage, name).items()
            }
        )

    def resolved(self, stage: str, name: str) -> dict[str, Any]:
        """The same as plain data."""
        kind, stages = next((kind, stages) for kind, stages in self._entries().items() if stage in stages[1])
        entries, sections = stages[0], stages[1][stage]
        if kind == "analysed":  # any run can be looked at by hand
            kind, entries = "runs", self.runs
        if name not in entries:
            where = f"{kind} of the suite {self.suite!r}"
            raise ParamsError(f"{self.path}: no entry {shown(name)} in {where}; known: {listed(entries)}")
        entry = entries[name] if isinstance(entries, dict) else {}
        record: dict[str, Any] = {"name": name}
        if kind in ("trained", "imported", "runs"):
            record["dataset_name"] = entry["dataset"]
        if kind in ("tables", "suite"):
            record["datasets"] = {key: self._title(key) for key in self.datasets}
            record["runs"] = {key: self._row(key) for key in self.runs}
        if stage == "ood":
            record["compared"] = list(self.compared)
        if stage == "report":
            record["differences"] = {key: self._differences(run) for key, run in self.runs.items()}
            record["analysed"] = list(self.analysed)
            record["tables"] = self.tables
        return record | self._merged(sections, entry)

    def shared(self, section: str) -> dict[str, Any]:
        """A section as the suite's runs share it."""
        return self._laid_over(self._raw["suite"], section, {})

    def suite_sets(self, section: str, key: str) -> bool:
        """Whether the suite's defaults lie over a shared value."""
        return key in self._raw["suite"]["defaults"].get(section, {})

    def jobs(self) -> list[tuple[str, str]]:
        """(stage, name) of every job of the suite, in pipeline order."""
        return [(stage, name) for entries, stages in self._entries().values() for stage in stages for name in entries]

    def _entries(self) -> dict[str, tuple[Any, dict[str, tuple[str, ...]]]]:
        return {
            "datasets": (self.datasets, DATASET_STAGES),
            "compared": (self.compared, COMPARED_STAGES),
            "trained": (self.trained, TRAINED_STAGES),
            "imported": (self.imported, IMPORTED_STAGES),
            "runs": (self.runs, RUN_STAGES),
            "analysed": (self.analysed, ANALYSIS_STAGES),
            "tables": (self.tables, TABLE_STAGES),
            "suite": ([self.suite], SUITE_STAGES),
        }

    def _title(self, dataset: str) -> str:
        """A data set's name in tables: that of the publications where its settings are theirs."""
        settings = self._merged(("dataset",), self.datasets[dataset])["dataset"]
        return TITLES.get(settings["source"], dataset)

    def _row(self, run: str) -> dict[str, Any]:
        """What tables say of a run."""
        entry = self.runs[run]
        train = self._merged(("train",), entry)["train"]
        sample = self._merged(("sample",), entry)["sample"]
        return {
            "method": entry["method"],
            "dataset": entry["dataset"],
            "n_steps": train["n_steps"],
            "classifies": train["pyx_weight"] > 0,
            "protocols": sample["protocols"],
        }

    def _differences(self, entry: dict) -> dict[str, Any]:
        """What a run sets for itself, by SECTION.KEY."""
        return {
            f"{section}.{key}": value
            for section, values in entry.items()
            if section in SECTIONS and isinstance(values, dict)
            for key, value in values.items()
        }

    def _merged(self, sections: tuple[str, ...], differences: dict) -> dict[str, dict]:
        return {key: self._laid_over(self._raw["suite"], key, differences) for key in sections}

    def _laid_over(self, suite: dict, section: str, differences: dict) -> dict:
        """A section with the suite's defaults over the shared values and an entry's differences over both."""
        return {**self._raw[section], **suite["defaults"].get(section, {}), **differences.get(section, {})}

    def _check_shape(self) -> None:
        raw, path = self._raw, self.path
        if not isinstance(raw, dict):
            raise ParamsError(f"{path}: holds no mapping of sections; restore it from version control")
        for key in raw:
            if key not in SECTIONS and key not in OTHER_KEYS:
                raise ParamsError(f"{path}: {named(key)}: {unknown(key, [*SECTIONS, *OTHER_KEYS], 'section')}")
        for key in (*SECTIONS, *OTHER_KEYS):
            if not isinstance(raw.get(key), dict):
                raise ParamsError(f"{path}: {key}: is {found(raw.get(key))}, expected a section with keys")

    def _overlay_runs(self) -> None:
        """Lay `runs` over the runs of those suites that have them."""
        suites = [s for s in (*self._raw["suites"].values(), self._raw["suite"]) if isinstance(s, dict)]
        entries = [suite["runs"] for suite in suites if isinstance(suite.get("runs"), dict)]
        known = list(dict.fromkeys(name for names in entries for name in names))
        for name, sections in self._raw["runs"].items():
            where = f"runs.{named(name)}"
            if name not in known:
                raise ParamsError(f"{self.path}: {where}: no suite has this run; known: {listed(known)}")
            self._check_sections(where, sections, RUN_SECTIONS)
        for suite in suites:
            for kind in ("trained", "imported", "runs", "analysed"):
                entries = suite.get(kind)
                if isinstance(entries, dict):  # new objects, because an alias of YAML is one object in several places
                    suite[kind] = {name: self._overlaid(name, entry) for name, entry in entries.items()}

    def _overlaid(self, name: str, entry: Any) -> Any:
        own = self._raw["runs"].get(name, {})
        if not isinstance(entry, dict):
            return entry
        entry_of = {section: entry.get(section) or {} for section in own}
        if not all(isinstance(values, dict) for values in entry_of.values()):
            return entry  # which is wrong, as checking the suite will say
        return {**entry, **{section: {**entry_of[section], **values} for section, values in own.items()}}

    def _check_suite(self, suite: Any) -> None:
        path = self.path
        expected = {"name", "defaults", "datasets", "compared", "trained", "imported", "runs", "analysed", "tables"}
        if not isinstance(suite, dict) or set(suite) != expected:
            raise ParamsError(f"{path}: suite: expected exactly the keys {', '.join(sorted(expected))}")
        if not isinstance(suite["name"], str) or not NAME_PATTERN.fullmatch(suite["name"]):
            raise ParamsError(
                f"{path}: suite.name: is {found(suite['name'])}, expected letters a-z, digits and underscores"
            )
        tables = suite["tables"]
        known = isinstance(tables, list) and all(isinstance(table, str) and table in TABLES for table in tables)
        if not known or len(set(tables)) < len(tables):
            expected = f"expected a list of {', '.join(TABLES)}, each once at most"
            raise ParamsError(f"{path}: suite.tables: is {found(tables)}, {expected}")
        for kind in ("datasets", "compared", "trained", "imported", "runs", "analysed", "defaults"):
            optional = kind in ("defaults", "trained", "imported", "analysed")
            if not isinstance(suite[kind], dict) or not (suite[kind] or optional):
                raise ParamsError(f"{path}: {kind}: is {found(suite[kind])}, expected at least one entry")
        if suite["runs"] != {**suite["trained"], **suite["imported"]}:
            raise ParamsError(f"{path}: suite.runs: differs from trained and imported together; merge both into it")
        for name, run in suite["analysed"].items():
            if suite["runs"].get(name) != run:
                where = f"suite.analysed.{named(name)}"
                raise ParamsError(f"{path}: {where}: differs from runs.{named(name)}; refer to it by its anchor")
        if suite["name"] in (*RESERVED, *suite["runs"]):
            raise ParamsError(
                f"{path}: suite.name: is {suite['name']!r}, the name of a folder of results/; use another"
            )
        if both := set(suite["trained"]) & set(suite["imported"]):
            raise ParamsError(f"{path}: imported.{named(both.pop())}: a trained run has this name; use another")
        self._check_sections("defaults", suite["defaults"], set(SECTIONS))
        for kind, own, sections in (
            ("datasets", set(), sections_of(DATASET_STAGES)),
            ("compared", set(), sections_of(COMPARED_STAGES)),
            ("trained", {"method", "dataset"}, RUN_SECTIONS),
            ("imported", {"method", "dataset", "checkpoint"}, RUN_SECTIONS),
        ):
            for name, entry in suite[kind].items():
                where = f"{kind}.{named(name)}"
                if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
                    raise ParamsError(
                        f"{path}: {where}: a name starts with a-z and goes on with a-z, 0-9, _ (at most 64 characters)"
                    )
                if kind == "compared" and name in MADE_SETS:
                    raise ParamsError(f"{path}: {where}: the name is taken by images that are made; use another")
                if name in RESERVED:
                    raise ParamsError(f"{path}: {where}: the name is taken by a folder of results/; use another")
                self._check_sections(where, entry, sections, own)
                if kind not in ("datasets", "compared"):
                    self._check_run(where, entry, suite)
                    where = f"runs.{name}" if name in self._raw["runs"] else where
                for section in sorted(sections):
                    self._check_section(where, section, entry, suite)
        self._check_section("suite", "tables", {}, suite)
        self._check_rows(suite)

    def _check_rows(self, suite: dict) -> None:
        """What sections are together: data sets, runs on them, and runs of one row of tables."""
        sizes = {}
        for name, entry in suite["datasets"].items():
            of = self._typed(suite, entry, sections_of(DATASET_STAGES))
            sizes[name] = checks.size(of.dataset, PUBLISHED_COUNTS.get(of.dataset.source, {}))
            self._raise_first(f"datasets.{name}: ", checks.of_data_jobs(of, sizes[name]))
        rows: dict[tuple[str, str], list] = {}
        for name, entry in suite["runs"].items():
            of, where, data = self._typed(suite, entry, RUN_SECTIONS), f"runs.{name}: ", sizes[entry["dataset"]]
            trained = name in suite["trained"]
            if trained:
                self._raise_first(where, checks.of_run(of, data))
                self._raise_first(where, checks.of_devices(of.train, of.compute, of.compute.devices))
            if name in suite["analysed"]:
                chains = of.train.buffer_size if trained else None
                self._raise_first(where, checks.of_analyses(of, data, chains))
            row = rows.setdefault((entry["dataset"], entry["method"]), [])
            self._raise_first(where, checks.of_row(entry, of, row))
            row.append((name, entry, of))

    def _raise_first(self, where: str, problems: Iterator[str]) -> None:
        for problem in problems:
            raise ParamsError(f"{self.path}: {where}{problem}")

    def _typed(self, suite: dict, entry: dict, sections: set[str]) -> SimpleNamespace:
        """Sections as an entry has them, which have been checked one by one."""
        return SimpleNamespace(
            **{key: SECTIONS[key].model_construct(**self._laid_over(suite, key, entry)) for key in sections}
        )

    def _check_sections(self, where: str, entry: Any, sections: set[str], own: frozenset | set = frozenset()) -> None:
        if not isinstance(entry, dict):
            raise ParamsError(f"{self.path}: {where}: is {found(entry)}, expected a mapping")
        for key, value in entry.items():
            if key not in sections | own:
                raise ParamsError(f"{self.path}: {where}.{named(key)}: {unknown(key, sorted(own | sections))}")
            if key not in own and not isinstance(value, dict):
                raise ParamsError(f"{self.path}: {where}.{key}: is {found(value)}, expected a section with keys")

    def _check_run(self, where: str, run: dict, suite: dict) -> None:
        self._raise_first(f"{where}.", checks.of_method(run.get("method")))
        if not isinstance(run.get("dataset"), str) or run["dataset"] not in suite["datasets"]:
            raise ParamsError(
                f"{self.path}: {where}.dataset: is {found(run.get('dataset'))}, expected one of "
                f"{listed(suite['datasets'])}"
            )

        checkpoint = run.get("checkpoint", "")
        if where.startswith("imported.") and not (isinstance(checkpoint, str) and PATH_PATTERN.fullmatch(checkpoint)):
            raise ParamsError(
                f"{self.path}: {where}.checkpoint: is {found(run.get('checkpoint'))}, expected the path of a file, "
                "of letters, digits and . _ - /"
            )

    def _check_section(self, where: str, section: str, entry: dict, suite: dict) -> None:
        shared, differences = suite["defaults"].get(section, {}), entry.get(section, {})
        try:
            checked = SECTIONS[section].model_validate(self._laid_over(suite, section, entry))
        except ValidationError as error:
            errors = error.errors()
            # a misspelt key is both unknown and missing: the unknown one is what its author looks for
            first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
            key = ".".join(str(part) if isinstance(part, int) else named(part) for part in first["loc"])
            top = str(first["loc"][0]) if first["loc"] else ""
            holder = f"{where}." if top in differences else "defaults." if top in shared else ""
            raise ParamsError(f"{self.path}: {holder}{section}.{key}: {explain(first, SECTIONS[section])}") from error
        if section == "train":
            self._raise_first(f"{where}.", checks.of_train(checked))
        if section == "dataset":
            self._check_dataset(where, checked)
        if section == "ood" and (unknown := [name for name in checked.sets or () if name not in suite["compared"]]):
            known = listed(suite["compared"])
            raise ParamsError(
                f"{self.path}: {where}.ood.sets: has {shown(unknown[0])}, expected some of compared: {known}"
            )

    def _check_dataset(self, where: str, dataset: Dataset) -> None:
        sides = SIDES[dataset.source]
        if sides is not None and dataset.image_size not in sides:
            raise ParamsError(
                f"{self.path}: {where}.dataset.image_size: is {dataset.image_size}, but {dataset.source} comes in "
                f"{' or '.join(map(str, sides))} pixels"
            )
        if dataset.source in ("celeba_hq", "image_folder") and not dataset.path:
            raise ParamsError(f"{self.path}: {where}.dataset.path: is missing, expected the folder of pictures")
        self._raise_first(f"{where}.", checks.of_dataset(dataset, PUBLISHED_COUNTS.get(dataset.source, {})))


def load_params(path: str | Path) -> Params:
    """Read and check a parameter file. Raises ParamsError naming the key, what was found and what is accepted."""
    path = Path(path)
    return parse_params(path, read_params(path))


def read_params(path: Path) -> str:
    """The text of a parameter file. Raises ParamsError where it cannot be read."""
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise ParamsError(f"{path}: is no regular file, expected a parameter file")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParamsError(f"{path}: cannot be read ({error.strerror}); run from the project's root folder") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: is not valid YAML: {clipped(str(error), 250)}") from error


def parse_params(path: Path, text: str) -> Params:
    """The checked parameters of a file whose content is `text`. Raises ParamsError as `load_params` does."""
    try:
        return Params(path, parse_yaml(text))
    except yaml.YAMLError as error:
        raise ParamsError(f"{path}: is not valid YAML: {clipped(str(error), 250)}") from error
    except RecursionError as error:
        raise ParamsError(f"{path}: a value holds itself, or is nested too deeply") from error
