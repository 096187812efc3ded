"""Registries: each entry is a file in a folder, found by its name. To add an entry, add its file.

Nothing else in the project imports a module by a name that it computes: fingerprints of code follow imports that stand
in the source (mebm/engine/code.py), so the record of a job names the entries that it uses.
"""

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parent.parent


class Registry:
    """The files of a package's folder that end in `suffix`, by the part of their name before it.

    Names are read from the folder, so that they can be listed without importing anything. Helpers that are no entries
    lie elsewhere.
    """

    def __init__(self, package: str, suffix: str = ".py"):
        self.package, self.suffix = package, suffix
        self._folder = package.replace(".", "/")

    def names(self) -> tuple[str, ...]:
        """Names of all entries, sorted."""
        found = (path.name.removesuffix(self.suffix) for path in (ROOT / self._folder).glob(f"*{self.suffix}"))
        return tuple(sorted(name for name in found if not name.startswith(("_", "."))))

    def file(self, name: str) -> str:
        """The file of an entry, seen from the project's root."""
        return f"{self._folder}/{name}{self.suffix}"

    def module(self, name: str) -> ModuleType:
        """The module of an entry, imported. Raises KeyError for a name that is none."""
        if name not in self.names():
            raise KeyError(name)
        return import_module(f"{self.package}.{name}")

    def constants(self, name: str) -> dict[str, Any]:
        """Names in capitals that an entry's module sets to plain values, read without importing it."""
        return _constants(ROOT / self.file(name))


@cache
def _constants(path: Path) -> dict[str, Any]:
    found = {}
    for node in ast.parse(path.read_bytes()).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id.isupper():
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                continue
    return found
