"""Imports go one way: the contracts that pyproject.toml has for import-linter hold, and they can fail."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from smoke import ROOT

LINT = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True, no_logo=True))"
DOWN, METHOD, STAGE = "Wings import downwards only", "The method meets neither", "Nothing imports a stage"
ADDED = {
    "a wing imports a higher one": ("mebm/method/loss.py", "import mebm.show.compare\n", DOWN),
    "so does the ground": ("mebm/errors.py", "from mebm.files import DEPTH\n", DOWN),
    "a wing without a place": ("mebm/attic/__init__.py", "", DOWN),
    "the method draws": ("mebm/method/sgld.py", "from mebm.figures import grids\n", METHOD),
    "a wing imports a stage": ("mebm/show/compare.py", "def f():\n    from stages import cli\n", STAGE),
}


def lint(folder: Path) -> tuple[int, str]:
    """Exit status and output of import-linter on the packages in a folder."""
    command = [sys.executable, "-c", LINT]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path) -> Path:
    """The packages and their contracts in another folder."""
    for name in ("mebm", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path / "pyproject.toml")
    return tmp_path


def test_what_is_imported_exists():
    """Also in scripts that tests hand to another Python; an environment may hold another copy of the packages."""
    pattern = re.compile(r"(?:from|import) ((?:mebm|stages)(?:\.\w+)*)(?: import ([\w, ]+))?")
    files = [path for folder in ("mebm", "stages", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    found = [(path, *match) for path in files for match in pattern.findall(path.read_text(encoding="utf-8"))]
    assert len(found) > 500
    for path, module, names in found:
        stem = ROOT / module.replace(".", "/")
        if stem.is_dir() and names:
            text = (stem / "__init__.py").read_text(encoding="utf-8")
            for name in (word.split(" as ")[0].strip() for word in names.split(",")):
                here = name in text or (stem / name).is_dir() or (stem / f"{name}.py").is_file()
                assert here, (path.name, module, name)
        else:
            assert stem.is_dir() or stem.with_suffix(".py").is_file(), (path.name, module)


def test_imports_go_one_way():
    status, said = lint(ROOT)
    assert status == 0, said


@pytest.mark.parametrize("kind", ADDED)
def test_one_that_goes_up_is_named(copy, kind):
    path, line, contract = ADDED[kind]
    (copy / path).parent.mkdir(exist_ok=True)
    with open(copy / path, "a", encoding="utf-8") as file:
        file.write(f"\n{line}")
    status, said = lint(copy)
    assert status == 1, said
    assert re.search(rf"^{contract}.* BROKEN", said, re.MULTILINE), said
