"""From a parameter file's plain data to checked suites: differences are laid over shared values.

Top-level sections hold the values that all runs share. Over them lie, in this order, `defaults.SECTION` of a suite,
`datasets.NAME.SECTION`, `trained.NAME.SECTION` and the like, and `runs.NAME.SECTION`, which is for command lines. What
is wrong is a ParamsError that names the key, without the file's name.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import ValidationError

from mebm.errors import ParamsError, listed, named
from mebm.settings import checks
from mebm.settings.entries import Entries, Entry, Run
from mebm.settings.schema import (
    MADE_SETS,
    NAME_PATTERN,
    OTHER_KEYS,
    PATH_PATTERN,
    RESERVED,
    SECTIONS,
    TABLES,
    Dataset,
    Ood,
    Sample,
    Section,
    Train,
)
from mebm.settings.stages import (
    COMPARED_STAGES,
    DATASET_STAGES,
    RUN_SECTIONS,
    SUITE_STAGES,
    TABLE_STAGES,
    sections_of,
)
from mebm.settings.wording import explain, found, meant, unknown

RUNS = ("trained", "imported")
MAPPINGS = ("datasets", "compared", *RUNS)  # of a suite, from names to entries
NEEDED = ("name", "datasets", "tables")
KEYS = (*NEEDED, "defaults", "compared", *RUNS, "analysed")
ENTRY_SECTIONS = {
    "datasets": sections_of(DATASET_STAGES),
    "compared": sections_of(COMPARED_STAGES),
    "trained": RUN_SECTIONS,
    "imported": RUN_SECTIONS,
}
IGNORED = (".state", "logs")  # which DVC leaves out
OWN_KEYS = {"trained": {"method", "dataset"}, "imported": {"method", "dataset", "checkpoint"}}  # besides sections


def read_suites(raw: Any) -> Entries:
    """The entries of the suite in use; all others are checked as well."""
    if not isinstance(raw, dict):
        raise ParamsError("holds no mapping of sections; restore it from version control")
    for key in raw:
        if key not in SECTIONS and key not in OTHER_KEYS:
            raise ParamsError(f"{named(key)}: {unknown(key, [*SECTIONS, *OTHER_KEYS], 'section')}")
    for key in (*SECTIONS, *OTHER_KEYS):
        if not isinstance(raw.get(key), dict):
            names = raw.get("suites") if key == "suite" else None
            slip = isinstance(raw.get(key), str) and isinstance(names, dict) and raw[key] in names
            cure = f"; write `suite: *{raw[key]}`, the anchor of that suite" if slip else ""
            raise ParamsError(f"{key}: is {found(raw.get(key))}, expected a section with keys{cure}")
    suites = [raw["suite"], *raw["suites"].values()]
    _check_overrides(raw["runs"], suites)
    in_use, *_ = [_Reader(suite, raw).read() for suite in suites]
    return in_use


def _check_overrides(overrides: dict, suites: Iterable[Any]) -> None:
    entries = [suite.get(kind) for suite in suites if isinstance(suite, dict) for kind in RUNS]
    known = list(dict.fromkeys(name for names in entries if isinstance(names, dict) for name in names))
    for name, sections in overrides.items():
        where = f"runs.{named(name)}"
        if name not in known:
            raise ParamsError(f"{where}: no suite has this run; known: {listed(known)}")
        _check_keys(where, sections, RUN_SECTIONS)


def _check_keys(where: str, entry: Any, sections: set[str], own: frozenset | set = frozenset()) -> None:
    if not isinstance(entry, dict):
        raise ParamsError(f"{where}: is {found(entry)}, expected a mapping")
    for key, value in entry.items():
        if key not in sections | own:
            raise ParamsError(f"{where}.{named(key)}: {unknown(key, sorted(own | sections))}")
        if key not in own and not isinstance(value, dict):
            raise ParamsError(f"{where}.{key}: is {found(value)}, expected a section with keys")


def _raise_first(where: str, problems: Iterable[str]) -> None:
    for problem in problems:
        raise ParamsError(f"{where}{problem}")


def _raise_first_with(overrides: dict, name: str, where: str, problems: Iterable[str], mark: str = ".") -> None:
    """As `_raise_first`, of a run whose sections in `overrides` stand under `runs.NAME`."""
    for problem in problems:
        is_own = re.split("[.:]", problem)[0] in overrides
        raise ParamsError(f"{f'runs.{name}' if is_own else where}{mark}{problem}")


class _Reader:
    """Reads one suite: its shape, then every entry's sections one by one, then what they are together."""

    def __init__(self, suite: Any, raw: dict):
        self._check_keys_of(suite)
        empty: dict[str, dict] = {kind: {} for kind in ("defaults", "analysed", *MAPPINGS)}
        self._suite = {**empty, **suite}
        self._shared = {key: raw[key] for key in SECTIONS}
        self._overrides: dict[str, dict] = raw["runs"]

    def read(self) -> Entries:
        self._check_shape()
        suite = self._suite
        datasets, compared = self._entries("datasets"), self._entries("compared")
        trained = self._runs("trained", {})
        imported = self._runs("imported", trained)
        runs = {**trained, **imported}
        analysed = {name: runs[name] for name in suite["analysed"]}
        sections = {key: self._section("suite", key, {}) for key in sections_of(TABLE_STAGES, SUITE_STAGES)}
        _check_together(datasets, runs, analysed, self._overrides)
        shared = {key: {**values, **suite["defaults"].get(key, {})} for key, values in self._shared.items()}
        return Entries(
            suite["name"],
            sections,
            shared,
            suite["defaults"],
            datasets,
            compared,
            trained,
            imported,
            analysed,
            suite["tables"],
        )

    def _check_keys_of(self, suite: Any) -> None:
        if not isinstance(suite, dict):
            raise ParamsError(f"suite: is {found(suite)}, expected a mapping with {', '.join(NEEDED)} and trained")
        for key in suite:
            if key not in KEYS:
                raise ParamsError(f"suite.{named(key)}: {unknown(key, list(KEYS))}")
        for key in NEEDED:
            if key not in suite:
                raise ParamsError(f"suite.{key}: is missing, expected in every suite")

    def _check_shape(self) -> None:
        suite, name = self._suite, self._suite["name"]
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise ParamsError(f"suite.name: is {found(name)}, expected letters a-z, digits and underscores")
        tables = suite["tables"]
        known = isinstance(tables, list) and all(isinstance(table, str) and table in TABLES for table in tables)
        if not known or len(set(tables)) < len(tables):
            raise ParamsError(
                f"suite.tables: is {found(tables)}, expected a list of {', '.join(TABLES)}, each once at most"
            )
        for kind in ("defaults", "analysed", *MAPPINGS):
            if not isinstance(suite[kind], dict):
                raise ParamsError(f"{kind}: is {found(suite[kind])}, expected a mapping")
        if both := set(suite["trained"]) & set(suite["imported"]):
            raise ParamsError(f"imported.{named(both.pop())}: a trained run has this name; use another")
        runs = {**suite["trained"], **suite["imported"]}
        for kind, entries in (("datasets", suite["datasets"]), ("trained", runs)):
            if not entries:
                raise ParamsError(f"{kind}: is {found(entries)}, expected at least one entry")
        for key, run in suite["analysed"].items():
            where = f"suite.analysed.{named(key)}"
            if key not in runs:
                raise ParamsError(f"{where}: no run has this name; known: {listed(runs)}")
            if runs[key] != run:
                kind = "trained" if key in suite["trained"] else "imported"
                raise ParamsError(f"{where}: differs from {kind}.{named(key)}; refer to it by its anchor")
        if name in (*RESERVED, *runs):
            raise ParamsError(f"suite.name: is {name!r}, the name of a folder of results/; use another")
        _check_keys("defaults", suite["defaults"], set(SECTIONS))

    def _entries(self, kind: str) -> dict[str, Entry]:
        entries = {}
        for name, entry in self._suite[kind].items():
            where = f"{kind}.{named(name)}"
            self._check_name(kind, where, name)
            _check_keys(where, entry, ENTRY_SECTIONS[kind])
            entries[name] = Entry(name, self._sections(where, kind, entry), _differences(entry))
        return entries

    def _runs(self, kind: str, trained: Mapping[str, Run]) -> dict[str, Run]:
        """The runs of one kind. trained: those that may have made an imported run's checkpoint."""
        runs = {}
        for name, entry in self._suite[kind].items():
            where = f"{kind}.{named(name)}"
            self._check_name(kind, where, name)
            _check_keys(where, entry, ENTRY_SECTIONS[kind], OWN_KEYS[kind])
            self._check_run(kind, where, entry)
            own = self._overrides.get(name, {})
            entry = {**entry, **{section: {**entry.get(section, {}), **values} for section, values in own.items()}}
            checkpoint, differences = entry.get("checkpoint"), _differences(entry)
            maker = trained.get(_trained_by(checkpoint)) if checkpoint else None
            sections = self._sections(f"runs.{name}" if own else where, kind, entry)
            if maker is not None:
                _raise_first_with(own, name, where, checks.of_maker(entry, maker))
                sections["train"] = maker.sections["train"]
                differences |= {key: value for key, value in maker.differences.items() if key.startswith("train.")}
            runs[name] = Run(name, sections, differences, entry["method"], entry["dataset"], checkpoint, maker)
            _raise_first_with(own, name, where, checks.of_weights(runs[name]))
        return runs

    def _check_name(self, kind: str, where: str, name: Any) -> None:
        if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
            raise ParamsError(f"{where}: a name starts with a-z and goes on with a-z, 0-9, _ (at most 64 characters)")
        if kind == "compared" and name in MADE_SETS:
            raise ParamsError(f"{where}: the name is taken by images that are made; use another")
        if name in RESERVED:
            raise ParamsError(f"{where}: the name is taken by a folder of results/; use another")

    def _check_run(self, kind: str, where: str, run: dict) -> None:
        _raise_first(f"{where}.", checks.of_method(run.get("method")))
        dataset, known = run.get("dataset"), self._suite["datasets"]
        if not isinstance(dataset, str) or dataset not in known:
            raise ParamsError(f"{where}.dataset: is {found(dataset)}, expected one of {listed(known)}")
        checkpoint = run.get("checkpoint")
        if kind == "imported" and not (isinstance(checkpoint, str) and PATH_PATTERN.fullmatch(checkpoint)):
            raise ParamsError(
                f"{where}.checkpoint: is {found(checkpoint)}, expected the path of a file or a folder, of letters, "
                "digits and . _ - /"
            )
        if kind == "imported" and (plain := str(PurePosixPath(checkpoint))) != checkpoint:
            # DVC takes the words as they are, and would not see that another job makes the file
            raise ParamsError(f"{where}.checkpoint: is {checkpoint}; write {plain}")
        if kind == "imported" and (ignored := checkpoint.partition("/")[0]) in IGNORED:
            raise ParamsError(
                f"{where}.checkpoint: is {checkpoint}, but nothing in {ignored} is a result that lasts; copy the file "
                "to data/downloads, and name it there"
            )

    def _sections(self, where: str, kind: str, entry: dict) -> dict[str, Section]:
        return {section: self._section(where, section, entry) for section in sorted(ENTRY_SECTIONS[kind])}

    def _section(self, where: str, section: str, entry: dict) -> Section:
        """A section with the suite's defaults over the shared values and an entry's differences over both, checked."""
        defaults, own = self._suite["defaults"].get(section, {}), entry.get(section, {})
        try:
            checked = SECTIONS[section].model_validate({**self._shared[section], **defaults, **own})
        except ValidationError as error:
            errors = error.errors()
            # a misspelt key is both unknown and missing: the unknown one is what its author looks for
            first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
            key = ".".join(str(part) if isinstance(part, int) else named(part) for part in first["loc"])
            top = str(first["loc"][0]) if first["loc"] else ""
            holder = f"{where}." if top in own else "defaults." if top in defaults else ""
            raise ParamsError(f"{holder}{section}.{key}: {explain(first, SECTIONS[section])}") from error
        if isinstance(checked, Train):
            _raise_first(f"{where}.", checks.of_train(checked))
        if isinstance(checked, Dataset):
            _raise_first(f"{where}.", checks.of_dataset(checked))
        if isinstance(checked, Ood):
            _raise_first(f"{where}.", checks.of_ood(checked, list(self._suite["compared"])))
        return checked


def _trained_by(checkpoint: str) -> str:
    """The name of the run whose training would make this file, or its folder of snapshots; empty for others."""
    match = re.fullmatch(r"results/(\w+)/train/(checkpoint\.pt|snapshots(/.+)?)", checkpoint)
    return match[1] if match else ""


def _differences(entry: dict) -> dict[str, Any]:
    sections = {key: values for key, values in entry.items() if key in SECTIONS and isinstance(values, dict)}
    return {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}


def _check_together(
    datasets: Mapping[str, Entry], runs: Mapping[str, Run], analysed: Mapping[str, Run], overrides: Mapping[str, dict]
) -> None:
    """What sections are together: data sets, runs on them, and runs of one row of tables."""
    sizes = {}
    for name, entry in datasets.items():
        sizes[name] = checks.size(entry.of(Dataset))
        _raise_first(f"datasets.{name}: ", checks.of_data_jobs(entry, sizes[name]))
    rows: dict[tuple[str, str], list[Run]] = {}
    for name, run in runs.items():
        where = f"{'trained' if run.checkpoint is None else 'imported'}.{name}"
        row = rows.setdefault((run.dataset, run.method), [])
        for problem in _of_run(run, datasets[run.dataset], sizes[run.dataset], row, name in analysed):
            trained = [other.name for other in runs.values() if other.checkpoint is None]
            _raise_first(f"{where}.", _of_missing_maker(run, trained))
            _raise_first_with(overrides.get(name, {}), name, where, [problem], mark=": ")
        row.append(run)


def _of_run(run: Run, dataset: Entry, data: checks.Size, row: list[Run], is_analysed: bool) -> Iterator[str]:
    """What is wrong with a run on its data set. row: the runs before it in its row of tables."""
    yield from checks.of_init(run, dataset)
    yield from checks.of_promise(run)
    yield from checks.of_sample(run.of(Sample), data)
    chains = None
    if run.checkpoint is None:
        yield from checks.of_run(run, data)
        yield from checks.of_devices(run)
        chains = run.of(Train).buffer_size
    if is_analysed:
        yield from checks.of_analyses(run, data, chains)
    yield from checks.of_row(run, row)


def _of_missing_maker(run: Run, trained: list[str]) -> Iterator[str]:
    """Why an imported run may lack the settings of a training: its checkpoint is of no run here, and does not exist."""
    maker = _trained_by(run.checkpoint or "")
    if maker and maker not in trained and not Path(run.checkpoint).exists():
        yield f"checkpoint: is {run.checkpoint}, which is not there, and no run of this suite is called {maker}; " + (
            meant(maker, trained)
        )
