"""A suite's results on one page: pictures and numbers of every job, found on disk, and the template that shows them."""

import base64
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from os.path import relpath
from pathlib import Path
from typing import Any

from mebm.errors import DataError
from mebm.files import Record, read_json, read_text, require
from mebm.show.formats import from_markdown
from mebm.show.rows import DASH
from mebm.show.summaries import DISTANCES, SCORES, SHARES

TYPES = {".svg": "image/svg+xml", ".png": "image/png", ".gif": "image/gif", ".webp": "image/webp"}
NAMES = {  # parts of a path that need more than their underscores removed
    "energy_pos": "energy of data",
    "energy_neg": "energy of samples",
    "grad_norm": "SGLD gradient norm",
    "n_in_distribution": "own images",
    "n_other": "other images",
    "fpr_at_95_tpr": "FPR at 95 % TPR",
    "knn_accuracy": "k-NN accuracy",
}
ACRONYMS = {
    "ece": "ECE",
    "nll": "NLL",
    "auroc": "AUROC",
    "fid": "FID",
    "is": "IS",
    "linf": "L∞",
    "l2": "L2",
    "sgld": "SGLD",
}
# By the last part of a number's path: where it is better, and which shares of 1 are shown in percent.
BETTER = {
    **dict.fromkeys(("accuracy", "clean_accuracy", "auroc", "average_precision", "precision", "recall", *SCORES), "↑"),
    **dict.fromkeys(("ece", "adaptive_ece", "nll", "brier", "fpr_at_95_tpr", "loss", "test_loss", *DISTANCES), "↓"),
    **{"distance": "↓", "best_distance": "↓", "score": "↑"},
}
PERCENT = (*SHARES, "clean_accuracy", "knn_accuracy", "features_accuracy", "confidence", "mean_probability")
PERCENT += ("ece", "adaptive_ece", "fpr_at_95_tpr")
# Keys of a metric record that say under which conditions it was measured, besides the parameters of its stage.
CONDITIONS = ("status", "warning", "seed", "versions", "provenance", "n_*", "*_sha256", "bn_stats", "preprocessing")
CONDITIONS += ("features_accuracy", "features_warning", "reference_split")
WARNINGS = ("warning", "features_warning")
KEY_NUMBERS = 4  # of an analysis in the overview at most, unless its block names them
LONGEST_LIST = 12  # values of a list that are shown one by one


@dataclass(frozen=True)
class Figure:
    """A picture inside the page. href: its file, as seen from the page; number: the digits that end its name."""

    name: str
    href: str
    uri: str
    number: int | None


@dataclass(frozen=True)
class Table:
    """Cells as text. numeric: for each column, whether it holds numbers."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    @property
    def numeric(self) -> tuple[bool, ...]:
        columns = zip(*self.rows, strict=True) if self.rows else [()] * len(self.head)
        return tuple(_is_numeric(column) for column in columns)


class JobPictures:
    """The pictures that a job left in a folder. page: the file of the report; address, cmd: how to make them again."""

    def __init__(self, folder: Path, page: Path, address: str, cmd: str):
        self.folder, self.address, self.cmd = folder, address, cmd
        self._page = page

    def figure(self, name: str) -> Figure | None:
        """The picture of that name in the folder; None where there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        digits = re.search(r"(\d+)$", path.stem)
        href = Path(relpath(path, self._page.parent)).as_posix()
        return Figure(name, href, data_uri(path), int(digits[1]) if digits else None)

    def figures(self, pattern: str, most: int = LONGEST_LIST) -> list[Figure]:
        """The pictures whose names fit the pattern, in order; of more than `most` the first, the last, some between."""
        names = sorted(path.name for path in self.folder.glob(pattern) if path.suffix in TYPES)
        if len(names) > most:
            names = [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
        return [self.figure(name) for name in names]


class Found(Record):
    """metrics.json of any analysis."""

    status: str = "ok"
    warning: str | None = None
    features_warning: str | None = None
    final: dict[str, Any] = {}


class Analysis(JobPictures):
    """What an analysis found for a run: pictures, numbers and their conditions, or the reason why it failed."""

    def __init__(self, folder: Path, page: Path, address: str, cmd: str, parameters: set[str], reason: str):
        super().__init__(folder / "figures", page, address, cmd)
        path = folder / "metrics.json"
        self.record = read_json(path, Found) if path.is_file() else None
        self.reason = "" if self.record is not None else reason
        self.status = str((self.record or {}).get("status", "ok"))
        self.warnings = [self.record[key] for key in WARNINGS if (self.record or {}).get(key)]
        self._conditions = (*CONDITIONS, *parameters)

    @property
    def applies(self) -> bool:
        """Whether the page has a block for it: not where it was not run, nor where there is nothing that it could find.

        That is said by a status other than "ok" and a record without a number. Why it failed is always shown.
        """
        return bool(self.reason) or (self.record is not None and (self.status == "ok" or bool(self.found)))

    @property
    def found(self) -> dict[str, Any]:
        """The part of the record that is no condition, without null and without parts that hold no number."""
        kept = {key: value for key, value in (self.record or {}).items() if not self._is_condition(key, value)}
        return _with_numbers(kept)

    @property
    def lacks(self) -> str:
        """Why it has not all of its numbers; empty where it has."""
        return "not run" if self.record is None else "" if self.status == "ok" else self.status

    def below(self, part: str, key: str, limit: float) -> list[tuple[str, float]]:
        """(name, value) of every dictionary in a part of `found` whose number `key` is below the limit."""
        entries = self.found.get(part)
        named = entries.items() if isinstance(entries, dict) else ()
        values = [(name, entry.get(key)) for name, entry in named if isinstance(entry, dict)]
        return [(name, value) for name, value in values if isinstance(value, (int, float)) and value < limit]

    @property
    def tables(self) -> list[Table]:
        return tables_of(self.found)

    @property
    def conditions(self) -> list[tuple[str, str]]:
        kept = {key: value for key, value in (self.record or {}).items() if self._is_condition(key, value)}
        hashes = {path: value for path, value in flat(self.found).items() if path.endswith("sha256")}
        hidden = ("status", *WARNINGS)
        return [(label(key), number(key, value)) for key, value in (flat(kept) | hashes).items() if key not in hidden]

    def _is_condition(self, key: str, value: Any) -> bool:
        return isinstance(value, (str, bool)) or any(fnmatch(key, pattern) for pattern in self._conditions)


@dataclass
class Run:
    """A run as the page shows it; `analyses` by stage."""

    name: str
    method: str
    dataset: str
    differences: list[str]
    sample: JobPictures
    analyses: dict[str, Analysis]
    trained: bool
    analysed: bool
    cost: dict[str, str]
    numbers: list[tuple[str, str]]

    @property
    def applicable(self) -> list[str]:
        """The analyses that have a block."""
        return [stage for stage, analysis in self.analyses.items() if analysis.applies]


@dataclass
class Overview:
    """The table of analyses, filled while the page's blocks ask for what they show."""

    _asked: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)

    def ask(self, run: Run, stage: str, title: str, keys: tuple[str, ...] = ()) -> Analysis:
        """The analysis of a run, whose numbers go into the table under `title`: those that fit `keys`, or the first."""
        self._asked.setdefault(stage, (title, tuple(keys)))
        return run.analyses[stage]

    def title(self, stage: str) -> str:
        """The title of an analysis that a block has asked for."""
        return self._asked[stage][0]

    def rest(self, run: Run) -> list[str]:
        """Analyses of a run that no block has asked for."""
        return [stage for stage in run.analyses if stage not in self._asked]

    def groups(self, runs: list[Run]) -> list[tuple[str, list[tuple[str, list[str]]]]]:
        """(title, [(number, [its value in each run])]) for every analysis that found a number in any of the runs."""
        groups = []
        for stage, (title, keys) in self._asked.items():
            found = [flat(run.analyses[stage].found) if stage in run.analyses else {} for run in runs]
            paths = dict.fromkeys(path for values in found for path, value in values.items() if _is_number(value))
            chosen = [path for path in paths if any(fnmatch(path, key) for key in keys)] or list(paths)[:KEY_NUMBERS]
            if chosen:
                groups.append((title, [(label(path), [number(path, v.get(path)) for v in found]) for path in chosen]))
        return groups

    def reasons(self, runs: list[Run]) -> list[tuple[str, str, str]]:
        """(analysis, run, reason) where an analysis failed, and where the table has dashes in its place."""
        tabled = {title for title, _ in self.groups(runs)}
        reasons = []
        for stage, (title, _) in self._asked.items():
            for run in runs:
                analysis = run.analyses.get(stage)
                if analysis and (analysis.reason or (title in tabled and analysis.lacks)):
                    reasons.append((title, run.name, analysis.reason or analysis.lacks))
        return reasons


def render(template: str, **content: Any) -> str:
    """A page from a template of this folder or the one above. Everything that comes from files is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader([Path(__file__).parent, Path(__file__).parent.parent]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"label": label, "shown": shown}
    return environment.get_template(template).render(dash=DASH, **content)


def data_uri(path: Path, content: bytes | None = None) -> str:
    """A picture as a data: address: the file's content, or the content given.

    Raises DataError for a type that browsers may not show.
    """
    if path.suffix not in TYPES:
        raise DataError(f"{path}: is not a picture of the types {', '.join(TYPES)}")
    content = require(path).read_bytes() if content is None else content
    return f"data:{TYPES[path.suffix]};base64,{base64.b64encode(content).decode()}"


def read_table(path: Path) -> tuple[Table, str]:
    """A table that the pipeline wrote as Markdown, and its caption. Raises DataError for another text."""
    try:
        head, rows, caption = from_markdown(read_text(path))
    except ValueError as error:
        raise DataError(f"{path}: {error}; delete it and run the tables stage again") from error
    return Table(tuple(head), tuple(map(tuple, rows))), caption


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """Nested dictionaries as one: {"a": {"b": 1}} becomes {"a.b": 1}.

    A list of dictionaries that all start with the same key, each with another plain value of it, is taken apart by that
    value: {"a": [{"at": 0.5, "b": 1}]} becomes {"a[at 0.5].b": 1}. Other lists stay.
    """
    values: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, dict):
            values |= {f"{key}.{path}": item for path, item in flat(value).items()}
        elif names := _names(value):
            for name, item in zip(names, value, strict=True):
                rest = dict(list(item.items())[1:])
                values |= {f"{key}[{name}].{path}": inner for path, inner in flat(rest).items()}
        else:
            values[key] = value
    return values


def _with_numbers(record: dict[str, Any]) -> dict[str, Any]:
    """The record without null, and without dictionaries, at any depth, in which only words are left.

    These are parts that a run does not have, such as the classes of an M-EBM, and say so by their status.
    """
    inner = {key: _with_numbers(value) if isinstance(value, dict) else value for key, value in record.items()}
    kept = {key: value for key, value in inner.items() if value is not None and value != {}}
    words = all(isinstance(value, (str, bool)) for value in kept.values())
    return {} if words else kept


def _names(value: Any) -> list[str]:
    """What tells the dictionaries of a list apart, such as "radius 8"; empty for anything else."""
    if not isinstance(value, list) or not all(isinstance(item, dict) and item for item in value):
        return []
    first = [next(iter(item.items())) for item in value]
    names = [f"{key} {shown(item)}" for key, item in first if isinstance(item, (str, int, float))]
    unlike = len(set(names)) == len(value) and len({key for key, _ in first}) == 1
    return names if unlike else []


def tables_of(record: dict[str, Any], within: str = "") -> list[Table]:
    """Nested numbers as tables.

    Single numbers share one table. Dictionaries side by side that have a key in common become a table with a row for
    each; lists of equal length side by side, or a list of dictionaries, a table with a row for each item. Anything
    deeper is taken level by level, with the names of the levels above in its rows. A status that is "ok" and hashes are
    no numbers: they are left out, unless another status of the same column is not "ok".
    """
    record = {key: value for key, value in record.items() if not _is_formal(key, [value])}
    single: list[tuple[str, str]] = []
    deeper: list[Table] = []
    groups = {key: value for key, value in record.items() if isinstance(value, dict)}
    columns = {key: value for key, value in record.items() if isinstance(value, list)}
    leaves = [value for value in groups.values() if not any(isinstance(item, (dict, list)) for item in value.values())]
    common = set.intersection(*map(set, leaves)) if len(leaves) == len(groups) > 1 else set()
    for key, value in record.items():
        path = f"{within}.{key}" if within else key
        if key in groups and not common:
            inner = {name: item for name, item in value.items() if not _is_formal(name, [item])}
            if value in leaves and len(inner) > 2:
                deeper.append(Table((label(path), "value"), tuple((label(n), number(n, v)) for n, v in inner.items())))
            elif value in leaves:
                single += [(label(f"{path}.{name}"), number(f"{path}.{name}", item)) for name, item in inner.items()]
            else:
                deeper += tables_of(value, path)
        elif key in columns and _columns(value):
            names = _columns(value)
            rows = tuple(tuple(number(name, item.get(name)) for name in names) for item in value)
            # the first column says what the table is of
            deeper.append(Table((label(f"{path}.{names[0]}"), *map(label, names[1:])), rows))
        elif key not in groups and not (key in columns and _side_by_side(columns)):
            single.append((label(path), number(path, value)))
    if common and (names := _columns(list(groups.values()))):
        rows = tuple((label(key), *(number(name, value.get(name)) for name in names)) for key, value in groups.items())
        deeper.insert(0, Table((label(within), *map(label, names)), rows))
    if _side_by_side(columns):
        rows = tuple(tuple(map(number, columns, row)) for row in zip(*columns.values(), strict=True))
        deeper.insert(0, Table(tuple(label(f"{within}.{key}" if within else key) for key in columns), rows))
    return ([Table(("", "value"), tuple(single))] if single else []) + deeper


def _columns(items: list) -> tuple[str, ...]:
    """The keys of dictionaries that become columns of one table; none where anything else is among them."""
    if not all(isinstance(item, dict) for item in items):
        return ()
    names = dict.fromkeys(name for item in items for name in item)
    return tuple(name for name in names if not _is_formal(name, [item[name] for item in items if name in item]))


def _is_formal(key: str, values: list) -> bool:
    """Whether the values of a key are hashes, or statuses that are all "ok"."""
    return key.endswith("sha256") or (key == "status" and all(value == "ok" for value in values))


def _side_by_side(columns: dict[str, list]) -> bool:
    lengths = {len(value) for value in columns.values()}
    plain = not any(isinstance(item, (dict, list)) for value in columns.values() for item in value)
    return len(columns) > 1 and len(lengths) == 1 and lengths != {0} and plain


def label(path: str) -> str:
    """The path of a number in words, with an arrow to where it is better: "before, adaptive ECE ↓"."""
    parts = _parts(path)
    words = (NAMES.get(part, " ".join(ACRONYMS.get(word, word) for word in part.split("_"))) for part in parts)
    return ", ".join(words) + (f" {BETTER[parts[-1]]}" if parts and parts[-1] in BETTER else "")


def number(path: str, value: Any) -> str:
    """A value as `shown` shows it, in percent where the path is that of such a share."""
    if _parts(path)[-1:] and _parts(path)[-1] in PERCENT and isinstance(value, (int, float)):
        return f"{shown(100 * value)} %"
    return shown(value)


def _parts(path: str) -> list[str]:
    """What a path leads through: "a[radius 8].b" is a, radius 8, b."""
    return [name or key for name, key in re.findall(r"\[(.*?)\]|([^.\[]+)", path.removesuffix(".value"))]


def shown(value: Any) -> str:
    """A value as text: floats with four digits, integers in groups of three, a dash for null, hashes cut short."""
    if value is None:
        return DASH
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f").replace("-", "−")
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    if isinstance(value, list):
        if len(value) > LONGEST_LIST:
            return f"{shown(value[0])} … {shown(value[-1])} ({len(value)} values)"
        return ", ".join(map(shown, value)) or DASH
    if isinstance(value, dict):
        return ", ".join(f"{label(key)} {shown(item)}" for key, item in value.items()) or DASH
    return value[:12] if re.fullmatch(r"[0-9a-f]{64}", str(value)) else str(value)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _is_numeric(cells: tuple[str, ...]) -> bool:
    """Whether a column holds numbers, with dashes where there is none."""
    return any(cells) and all(re.match(rf"[+−-]?[\d.]|{DASH}$", cell) for cell in cells if cell)
