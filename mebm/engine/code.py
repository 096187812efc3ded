"""What the code of a stage means: a fingerprint of every module that its command imports, directly or through others.

A fingerprint is a hash of the meaning of a module. Comments, docstrings, formatting, type annotations of functions, the
order of imports and the words of error messages do not change it, nor does the version of Python. Any other edit does.
Data files beside a module (a template, a table of figures) count with the module that names
them.
"""

import ast
import hashlib
import json
import re
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple

from mebm.errors import DataError
from mebm.files import write_text

PACKAGES = ("mebm", "stages")
# Modules, and wings whole, that carry parameters, files, messages and schedules, draw for those who watch, or estimate
# what training costs, and decide no number of the method. They are not followed.
CARRIERS = (
    *("mebm/__init__.py", "mebm/__main__.py"),
    *("mebm/errors.py", "mebm/files.py", "mebm/folders.py", "mebm/registry.py", "mebm/terminal.py"),
    *("mebm/settings/", "mebm/engine/", "mebm/commands/"),
    *("mebm/training/cost.py", "mebm/training/devices.py", "mebm/training/operations.py", "mebm/training/state.py"),
    "mebm/training/trackers.py",
    *("stages/__init__.py", "stages/cli.py", "stages/looks.py"),
)
ROOT = Path(__file__).resolve().parent.parent.parent  # of the code that runs
KEPT = Path(".state/code.json")
_WORD = re.compile(r"(?:[\w-]+/)*[\w-]+(\.[\w-]+)+")  # that could be a file's path
_new: dict[Path, dict[str, list]] = {}


@cache
def of_stage(stage: str, entries: frozenset[str] = frozenset(), root: Path = ROOT) -> dict[str, str]:
    """Fingerprints of what `python -m stages.<stage>` computes with, by path below `root`.

    entries: files of registries (mebm/registry.py) that it uses though no import names them. Raises DataError for a
    module that is not Python.
    """
    found = {f"stages/{stage}.py", *entries}
    queue = list(found)
    while queue:
        for path in _mentions(root, queue.pop()):
            if path not in found and not path.startswith(CARRIERS):
                found.add(path)
                queue.append(path)
    return {path: fingerprint(root, path) for path in sorted(found)}


def fingerprint(root: Path, path: str) -> str:
    """16 hexadecimal digits of what a file means. Raises DataError for a module that is not Python."""
    return _read(root, path).fingerprint


def fingerprint_of(content: bytes, path: str) -> str:
    """The same for a content that a file had. Raises DataError for a module that is not Python."""
    return _Module.of(content, path).fingerprint


def save(root: Path = ROOT) -> None:
    """Keep what was read of contents that were not known, so that they are parsed once."""
    kept, new = _kept(root), _new.pop(root, None)
    if new:
        with suppress(DataError):  # unwritable: they are parsed again
            write_text(root / KEPT, json.dumps({"by": _own_version(), "contents": kept | new}))


def forget() -> None:
    """Drop what was read, for a process that outlives an edit."""
    for function in (of_stage, _mentions, _read, _kept, _data_files):
        function.cache_clear()


class _Module(NamedTuple):
    """What is kept of a content: its fingerprint, the modules that it imports, and words that could name data files."""

    fingerprint: str
    modules: list[str]
    words: list[str]

    @classmethod
    def of(cls, content: bytes, path: str) -> "_Module":
        if not path.endswith(".py"):  # a template names those that it takes in
            text = content.decode(errors="surrogateescape").replace("\r\n", "\n")
            return cls(_digest(text), [], sorted(filter(_WORD.fullmatch, set(re.findall(r"[\w./-]+", text)))))
        try:
            tree = ast.parse(content, filename=path)
        except (SyntaxError, ValueError, RecursionError) as error:
            reason = getattr(error, "msg", None) or error
            line = f", line {error.lineno}" if getattr(error, "lineno", None) else ""
            raise DataError(f"{path}{line}: is not valid Python ({reason}); correct it first") from error
        modules, words = [], set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                folder = Path(path).parent.parts
                base = folder[: len(folder) - node.level + 1] if node.level else ()
                module = ".".join((*base, *([node.module] if node.module else [])))
                modules += [module, *(f"{module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Import):
                modules += [alias.name for alias in node.names]
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _WORD.fullmatch(node.value):
                words.add(node.value)
        return cls(_digest(_meaning(tree)), list(dict.fromkeys(modules)), sorted(words))


@cache
def _read(root: Path, path: str) -> _Module:
    try:
        content = (root / path).read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    # a relative import means another module in another folder
    key = hashlib.sha256(b"\0".join([Path(path).parent.as_posix().encode(), path.rpartition(".")[2].encode(), content]))
    kept = _kept(root).get(key.hexdigest())
    if kept is not None:
        return _Module(*kept)
    found = _Module.of(content, path)
    _new.setdefault(root, {})[key.hexdigest()] = list(found)
    return found


@cache
def _kept(root: Path) -> dict[str, list]:
    try:
        record = json.loads((root / KEPT).read_text(encoding="utf-8"))
        return record["contents"] if record["by"] == _own_version() else {}
    except (OSError, ValueError, KeyError, TypeError):  # the first time, or damaged
        return {}


@cache
def _own_version() -> str:
    return _digest(Path(__file__).read_text(encoding="utf-8"))


def _digest(meaning: str) -> str:
    return hashlib.sha256(meaning.encode(errors="surrogateescape")).hexdigest()[:16]


@cache
def _mentions(root: Path, path: str) -> tuple[str, ...]:
    """Files of the project that a file imports, wherever in it, and the packages' data files that it names."""
    module, found = _read(root, path), []
    for name in module.modules:  # and the packages that it lies in, whose __init__ runs as well
        parts = name.split(".")
        if parts[0] not in PACKAGES:
            if (root / f"{parts[0]}.py").is_file() or (root / parts[0] / "__init__.py").is_file():
                raise DataError(
                    f"{path}: imports {parts[0]}, and an edit there would make nothing stale; move it into mebm/"
                )
            continue
        stems = ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]
        files = [file for stem in stems for file in (f"{stem}.py", f"{stem}/__init__.py")]
        found += [file for file in files if (root / file).is_file()]
    words = {word.rpartition("/")[2] for word in module.words}
    found += [file for file in _data_files(root) if Path(file).name in words]
    return tuple(dict.fromkeys(found))


@cache
def _data_files(root: Path) -> tuple[str, ...]:
    files = (path for package in PACKAGES for path in sorted((root / package).rglob("*.*")) if path.is_file())
    return tuple(
        path.relative_to(root).as_posix()
        for path in files
        if path.suffix not in (".py", ".pyc") and "__pycache__" not in path.parts and not path.name.startswith(".")
    )


def _meaning(tree: ast.Module) -> str:
    imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = sorted(
        f"{getattr(node, 'level', 0)}:{getattr(node, 'module', '')}:{alias.name}:{alias.asname}"
        for node in imports
        for alias in node.names
    )
    if any(isinstance(node, ast.Attribute) and node.attr == "__doc__" for node in ast.walk(tree)):
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef))
        names += [f"{node.name}: {ast.get_docstring(node)}" for node in functions]  # which come out as results
    rest = [node for node in tree.body if node not in imports]
    return "\n".join([*names, *(_said(node) for node in _statements(rest))])


def _statements(body: list) -> list:
    """Without those that do nothing: docstrings, other bare constants, pass."""
    return [
        node
        for node in body
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)) and not isinstance(node, ast.Pass)
    ]


def _said(node: object, quiet: bool = False) -> str:
    """A tree as text, without positions. quiet: inside a raise, whose words are for people."""
    if isinstance(node, list):
        items = _statements(node) if node and all(isinstance(item, ast.stmt) for item in node) else node
        return "[" + ",".join(_said(item, quiet) for item in items) + "]"
    if not isinstance(node, ast.AST):
        return ascii(node)  # what is printable differs between versions of Python
    if isinstance(node, ast.Constant):
        return "text" if quiet and isinstance(node.value, str) else f"{type(node.value).__name__} {node.value!a}"
    if quiet and isinstance(node, ast.JoinedStr):
        return "text"
    if isinstance(node, ast.JoinedStr):
        node = ast.JoinedStr([part for part in node.values if getattr(part, "value", None) != ""])
    quiet = quiet or isinstance(node, ast.Raise)
    ignored = {"ctx", "kind", "type_comment"}
    if isinstance(node, ast.arg):
        ignored.add("annotation")
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        ignored.add("returns")
    fields = ((name, getattr(node, name, None)) for name in node._fields if name not in ignored)
    # What is empty is left out: newer versions of Python know more fields, and some end an f-string in an empty text.
    said = [f"{name}={_said(value, quiet)}" for name, value in fields if value is not None and value != []]
    return f"{type(node).__name__}({','.join(said)})"
