"""Two versions of the results side by side: parameters, metrics against the seed spread, tables, grids, code.

`compare` collects, `to_markdown` and `to_html` show; mebm/commands/compare.py prints the same tables on a terminal.
"""

import csv
import difflib
import io
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import mean, stdev, variance

import yaml
from scipy import stats

from mebm.engine.graph import RECORDS, parts
from mebm.engine.versions import Version
from mebm.errors import DataError
from mebm.files import BoundedLoader
from mebm.settings.checks import BASELINES
from mebm.settings.schema import SECTIONS
from mebm.show.formats import markdown
from mebm.show.report.page import Table, data_uri, flat, render
from mebm.show.rows import DASH
from mebm.show.summaries import METRICS, SHARES, in_print, label

KEY_COLUMNS = ("data_set", "method", "metric", "n_steps", "protocol")  # of the tables' CSV: what a row is about
SPREAD = (
    "Seed spread: standard deviation between runs of one method that differ only in their seed, pooled over both "
    "versions. A difference is beyond it where a two-sided t-test on the means rejects chance at 5 %; one seed says "
    "nothing."
)
LONGEST_DIFF = 400  # lines of a file's change that are shown


@dataclass(frozen=True)
class Part:
    """One table of a comparison. empty: what stands in its place where it has no rows."""

    title: str
    table: Table
    text: str = ""
    empty: str = ""


@dataclass(frozen=True)
class Grid:
    """The first chains of a run at both versions, as PNG; None where there are none."""

    run: str
    a: bytes | None
    b: bytes | None


@dataclass(frozen=True)
class Change:
    """A source file that differs. stages: those that depend on it; lines: its unified diff."""

    path: str
    stages: tuple[str, ...]
    lines: tuple[str, ...]

    @property
    def count(self) -> str:
        """Lines added and removed."""
        signs = [line[0] for line in self.lines if not line.startswith(("+++", "---"))]
        return f"+{signs.count('+')} −{signs.count('-')}"

    @property
    def shown(self) -> str:
        """The diff, cut where it is long."""
        more = len(self.lines) - LONGEST_DIFF
        return "\n".join(self.lines[:LONGEST_DIFF]) + (f"\n… {more} more lines" if more > 0 else "")


@dataclass
class Comparison:
    """What differs between two versions of the results."""

    a: str
    b: str
    parts: list[Part] = field(default_factory=list)
    grids: list[Grid] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def compare(a: Version, b: Version) -> Comparison:
    """Compare two versions. Raises DataError for a record that cannot be read."""
    found = Comparison(a.title, b.title)
    resolved = [_resolved(version) for version in (a, b)]
    found.parts = [
        _parameters(*resolved, found),
        _metrics(a, b, *resolved, found),
        _tables(a, b, found),
        _jobs(a, b, found),
    ]
    found.changes = _changes(a, b)
    names = ("file", "lines", "read by")
    rows = tuple((change.path, change.count, ", ".join(change.stages)) for change in found.changes)
    text = "Source files that the results depend on."
    found.parts.append(Part("Code", Table(names, rows), text, "No module that a result depends on differs."))
    runs = dict.fromkeys(run for record in resolved for run in _runs(record))
    for run in runs:
        path = f"results/{run}/sample/grid.png"
        grid = Grid(run, a.result(path), b.result(path))
        if grid.a or grid.b:
            found.grids.append(grid)
    found.notes += _notes(a, b)
    return found


def judge(metric: str, a: list[float], b: list[float]) -> tuple[str, str, str]:
    """Difference of the means, seed spread, and what they say, as text. Each list holds one value per seed."""
    digits = _digits(metric)
    difference = f"{mean(b) - mean(a):+.{digits}f}".replace("-", "−")
    freedom = len(a) + len(b) - 2
    if sorted(a) == sorted(b):
        spread = f"{stdev(a):.{digits}f}" if len(a) > 1 else DASH
        return f"{0:.{digits}f}", spread, "same"
    if freedom < 1:
        return difference, DASH, "one seed"
    pooled = sqrt(sum((len(values) - 1) * variance(values) for values in (a, b) if len(values) > 1) / freedom)
    limit = stats.t.ppf(0.975, freedom) * pooled * sqrt(1 / len(a) + 1 / len(b))
    if abs(mean(b) - mean(a)) <= limit:
        return difference, f"{pooled:.{digits}f}", "within"
    better = (mean(b) > mean(a)) == label(metric.rsplit(".", 1)[-1]).endswith("↑")
    return difference, f"{pooled:.{digits}f}", "beyond, better" if better else "beyond, worse"


def _digits(metric: str) -> int:
    return 2 if metric.rsplit(".", 1)[-1] in (*SHARES, "fid", "is_mean") else 3


@contextmanager
def _reading(version: Version, path: str) -> Iterator[None]:
    """Turns what goes wrong inside, with a damaged file, into a DataError that names it."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError, csv.Error, yaml.YAMLError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{version.name}: {path} cannot be read ({reason}); make it again with its stage") from error


def _resolved(version: Version) -> dict[str, dict]:
    """The parameters of every job, {"train.mjem_mnist": {section: {key: value}}}; empty where they are not here."""
    path = "results/params/all.yaml"
    content = version.result(path)
    with _reading(version, path):
        found = yaml.load(content, Loader=BoundedLoader) if content else {}
        for address, job in found.items():
            if "." not in address or not isinstance(job, dict):
                raise ValueError(f"{address} is no job with its parameters")
        for run in _runs(found).values():
            if not all(isinstance(run[key], str) for key in ("dataset", "method")):
                raise ValueError("a run without data set or method")
        return found


def _runs(resolved: dict[str, dict]) -> dict[str, dict]:
    """What tables say of each run."""
    return next((job["runs"] for address, job in resolved.items() if address.startswith("start.")), {})


def _parameters(a: dict[str, dict], b: dict[str, dict], found: Comparison) -> Part:
    def values(resolved: dict[str, dict]) -> dict[tuple[str, str, str], object]:
        return {
            (address.split(".", 1)[1], section, key): value
            for address, record in resolved.items()
            for section, keys in record.items()
            if section in SECTIONS and isinstance(keys, dict)
            for key, value in keys.items()
        }

    head = ("parameter", found.a, found.b, "of")
    if unknown := [title for title, resolved in ((found.a, a), (found.b, b)) if not resolved]:
        return Part("Parameters", Table(head, ()), empty=f"Not known: those of {' and '.join(unknown)} are not here.")
    one, two = values(a), values(b)
    names = [{name for name, _, _ in side} for side in (one, two)]
    for this, other, title in ((*names, found.a), (*reversed(names), found.b)):
        if only := sorted(this - other):
            found.notes.append(f"only at {title}: {', '.join(only)}")
    differ: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    having: dict[str, set[str]] = defaultdict(set)
    for name, section, key in dict.fromkeys([*one, *two]):
        if name not in names[0] & names[1]:
            continue
        having[f"{section}.{key}"].add(name)
        before, after = (side.get((name, section, key), DASH) for side in (one, two))
        if before != after or type(before) is not type(after):
            differ[f"{section}.{key}", _plain(before), _plain(after)].append(name)
    rows = []
    for (key, before, after), of in differ.items():
        every = len(of) > 1 and set(of) == having[key]
        rows.append((key, before, after, "all" if every else ", ".join(of)))
    empty = "No parameter differs, of those that the results were made with."
    return Part("Parameters", Table(head, tuple(rows)), empty=empty)


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _metrics(a: Version, b: Version, resolved_a: dict, resolved_b: dict, found: Comparison) -> Part:
    rows = []
    one, two = _measured(a, resolved_a), _measured(b, resolved_b)
    unknown = [
        v.title
        for v, r in ((a, resolved_a), (b, resolved_b))
        if not r or _lacks(v, "results/summary", "results/baseline")
    ]
    alone = "not all are here" if unknown else "only one version has it"
    for dataset, method, metric in dict.fromkeys([*one, *two]):
        before, after = (side.get((dataset, method, metric), []) for side in (one, two))
        judged = judge(metric, before, after) if before and after else (DASH, DASH, alone)
        if method in BASELINES.values() and judged[2] == "one seed":
            judged = (*judged[:2], "differs")
        protocol, _, key = metric.rpartition(".")
        name = label(key) + (f" ({protocol})" if protocol else "")
        rows.append((dataset, method, name, _spread(metric, before), _spread(metric, after), *judged))
    head = ("data set", "method", "metric", found.a, found.b, "difference", "seed spread", "verdict")
    empty = f"Not known: those of {' and '.join(unknown)} are not here." if unknown else "No metrics are recorded."
    return Part("Metrics", Table(head, tuple(rows)), SPREAD, empty)


def _lacks(version: Version, *folders: str) -> bool:
    """Whether a recorded file of such a folder could not be had."""
    return any(path.startswith(tuple(f"{folder}/" for folder in folders)) for path in version.absent)


def _measured(version: Version, resolved: dict[str, dict]) -> dict[tuple[str, str, str], list[float]]:
    """Values of each metric, one per run, by (data set, method, metric)."""
    measured: dict[tuple[str, str, str], list[float]] = defaultdict(list)

    def add(dataset: str, method: str, file: str) -> None:
        content = version.result(file)
        with _reading(version, file):
            for path, value in flat(json.loads(content or b"{}")).items():
                key = path.rsplit(".", 1)[-1]
                if key in METRICS and value is not None:
                    measured[dataset, method, path.removeprefix("full.")].append(in_print(key, float(value)))

    for run, row in _runs(resolved).items():
        add(row["dataset"], row["method"], f"results/summary/{run}.json")
    for dataset in dict.fromkeys(row["dataset"] for row in _runs(resolved).values()):
        for part, method in BASELINES.items():
            add(dataset, method, f"results/baseline/{dataset}/{part}.json")
    return measured


def _spread(metric: str, values: list[float]) -> str:
    if not values:
        return DASH
    text = f"{mean(values):.{_digits(metric)}f}"
    return f"{text} ± {stdev(values):.{_digits(metric)}f} ({len(values)})" if len(values) > 1 else text


def _tables(a: Version, b: Version, found: Comparison) -> Part:
    rows = []
    for path in dict.fromkeys(path for version in (a, b) for path in version.results("results/tables", "*.csv")):
        name = path.rsplit("/", 1)[-1].removesuffix(".csv")
        one, two = _cells(a, path), _cells(b, path)
        if path in a.absent | b.absent:
            continue
        for row, column in dict.fromkeys([*one, *two]):
            before, after = (side.get((row, column)) or DASH for side in (one, two))
            if before != after:
                short = [_short(cell) for cell in (before, after)]
                rows.append((name, ", ".join(row), column, *(short if short[0] != short[1] else (before, after))))
    head = ("table", "row", "column", found.a, found.b)
    unknown = [version.title for version in (a, b) if _lacks(version, "results/tables")]
    empty = f"Not known: those of {' and '.join(unknown)} are not here." if unknown else "Every table is the same."
    return Part("Tables", Table(head, tuple(rows)), "Cells that differ.", empty)


def _cells(version: Version, path: str) -> dict[tuple[tuple[str, ...], str], str]:
    """Cells of a table that are no key of their row, by (row, column)."""
    content = version.result(path)
    cells = {}
    with _reading(version, path):
        for row in csv.DictReader(io.StringIO((content or b"").decode())):
            if None in row or None in row.values():
                raise ValueError("a row has other columns than the heading")
            key = tuple(row[column] for column in KEY_COLUMNS if row.get(column))
            cells |= {(key, column): value for column, value in row.items() if column not in KEY_COLUMNS}
    return cells


def _short(cell: str) -> str:
    """A number with six digits at most; any other text as it is."""
    try:
        return cell if len(cell) <= 7 else f"{float(cell):.6g}"
    except ValueError:
        return cell


def _jobs(a: Version, b: Version, found: Comparison) -> Part:
    """Jobs that were made from other parameters, code or commands, and how many follow from those."""
    rows, follow = [], 0
    for address in dict.fromkeys([*a.jobs, *b.jobs]):
        one, two = a.jobs.get(address), b.jobs.get(address)
        if one is None or two is None:
            rows.append((address, f"only at {found.a if two is None else found.b}"))
            continue
        own = ["its command"] if one.cmd != two.cmd else []
        for path in dict.fromkeys([*one.deps, *two.deps]):
            if one.deps.get(path) != two.deps.get(path):
                if path.startswith(f"{RECORDS}/"):
                    own += _record_differences(a, b, address)
                elif not (a.records(path) or b.records(path)) and not path.startswith(("results", "data")):
                    own.append(path)
        if own:
            same = "" if one.outs != two.outs else " (the outputs are the same)"
            rows.append((address, ", ".join(dict.fromkeys(own)) + same))
        elif one.outs != two.outs:
            follow += 1
    text = "Jobs made from other parameters, code or commands."
    text += f" Outputs of {follow} more differ because their inputs do." if follow else ""
    rows = [row for row in rows if row[0] != "params"]
    return Part("Jobs", Table(("job", "what differs"), tuple(rows)), text, "All jobs were made from the same.")


def _record_differences(a: Version, b: Version, address: str) -> list[str]:
    """What differs between the records that a job was made from: its parameters, or modules by name."""
    one, two = a.made_from(address), b.made_from(address)
    if one is None or two is None:
        return ["its parameters or code"]
    own = ["its parameters"] if {**one, "code": 0} != {**two, "code": 0} else []
    code = a.code(address), b.code(address)
    return own + [path for path in dict.fromkeys([*code[0], *code[1]]) if code[0].get(path) != code[1].get(path)]


def _changes(a: Version, b: Version) -> list[Change]:
    """Modules and data files whose meaning differs, with the lines."""
    readers: dict[str, set[str]] = defaultdict(set)
    hashes: list[dict[str, set[str]]] = []
    for version in (a, b):
        known: dict[str, set[str]] = defaultdict(set)
        for address in version.jobs:
            for path, made in version.code(address).items():
                known[path].add(made)
                readers[path].add(parts(address)[0])
        hashes.append(known)
    changes = []
    for path in sorted(readers):
        if hashes[0][path] == hashes[1][path]:
            continue
        texts = [(version.source(path) or b"").decode(errors="replace").splitlines() for version in (a, b)]
        lines = tuple(difflib.unified_diff(*texts, f"{a.title}/{path}", f"{b.title}/{path}", lineterm="", n=3))
        changes.append(Change(path, tuple(sorted(readers[path])), lines))
    return changes


def _notes(a: Version, b: Version) -> list[str]:
    notes = []
    for version in (a, b):
        if edited := version.edited():
            files = _some(edited)
            notes.append(f"{version.name}: results were made from another content of {files}; run the pipeline there")
        if version.changed:
            files = _some(sorted(version.changed))
            notes.append(f"{version.name}: not what dvc.lock records: {files}; run `dvc checkout`, or the pipeline")
        if version.absent:
            files = _some(sorted(version.absent))
            notes.append(
                f"{version.name}: neither in DVC's cache nor in a remote: {files}; add the remote, or run it again"
            )
    packages = [_packages(version) for version in (a, b)]
    for name in sorted(set(packages[0]) & set(packages[1])):
        if packages[0][name] != packages[1][name]:
            notes.append(f"{name}: {packages[0][name]} at {a.title}, {packages[1][name]} at {b.title}")
    return notes


def _some(names: list[str]) -> str:
    return f"{', '.join(names[:4])}{f' and {len(names) - 4} more' if len(names) > 4 else ''}"


def _packages(version: Version) -> dict[str, str]:
    """Versions of the packages that metrics were computed with."""
    for job in version.jobs.values():
        for out in job.outs:
            if out.endswith("quality.json"):
                content = version.result(out)
                with _reading(version, out):
                    return json.loads(content or b"{}").get("full", {}).get("versions", {})
    return {}


def to_markdown(found: Comparison, pictures: dict[str, tuple[str | None, str | None]]) -> str:
    """The comparison as Markdown. pictures: by run, where each version's grid lies, as seen from the file."""
    text = [f"# {found.a} and {found.b}", *(f"- {note}" for note in found.notes)]
    for part in found.parts:
        text += ["", f"## {part.title}", ""]
        text += [markdown_table(part.table)] if part.table.rows else [part.empty]
        text += ["", part.text] if part.text and part.table.rows else []
    if found.grids:
        head = Table(
            ("run", found.a, found.b),
            tuple((run, *(f"![{run}]({path})" if path else DASH for path in paths)) for run, paths in pictures.items()),
        )
        text += ["", "## Samples", "", markdown_table(head)]
    return "\n".join(text) + "\n"


def markdown_table(table: Table) -> str:
    """A table in Markdown."""
    lines = [table.head, ["---"] * len(table.head), *table.rows]
    rows = ([cell if cell == "---" or cell.startswith("![") else markdown(cell) for cell in line] for line in lines)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def to_html(found: Comparison) -> str:
    """The comparison as one page that loads nothing."""

    def uri(content: bytes | None) -> str | None:
        return None if content is None else data_uri(Path("grid.png"), content)

    grids = [(grid.run, uri(grid.a), uri(grid.b), grid.a == grid.b) for grid in found.grids]
    return render("compare.html.j2", found=found, grids=grids)
