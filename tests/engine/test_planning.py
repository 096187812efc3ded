"""Reading the Snakefile changes nothing, whatever state the project is in; what has to change does so before jobs."""

import os
import re
import shutil
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import networkx  # DVC's
import pytest
import yaml
from engines import planned, run
from smoke import ROOT

from mebm.engine.planning import Planned

# What is kept to be faster next time, and what Snakemake itself keeps
KEPT = (".snakemake", ".state/code.json", ".state/hashes.json", ".state/read.dvc.lock.json")


@pytest.fixture
def folder(recorded, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(recorded, tmp_path / "project", symlinks=True))


def tree(folder: Path) -> dict[str, tuple]:
    """Every file and folder of the project with its size, its time and its content; bytecode may come beside code."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not name.startswith(KEPT) and "__pycache__" not in path.parts and name != ".state":
            state = path.lstat()
            content = path.read_bytes() if path.is_file() else None
            with_code = content is None and path.relative_to(folder).parts[0] in ("mebm", "stages")
            found[name] = (state.st_size if content is not None else 0, not with_code and state.st_mtime_ns, content)
    return found


def tear(path: Path) -> None:
    """Leave half of a lock file, cut within a key, so that it does not read as YAML of fewer jobs."""
    text = path.read_text()
    path.write_text(text[: text.index("md5: ", len(text) // 2) + 2])


def spoil(folder: Path) -> None:
    """What a kill, a wrong clock and an earlier command can leave."""
    (folder / ".state").mkdir(exist_ok=True)
    shutil.copy(folder / "dvc.lock", folder / ".state" / "dvc.lock")
    tear(folder / "dvc.lock")
    (folder / ".dvc" / "tmp").mkdir(exist_ok=True)
    (folder / ".dvc" / "tmp" / "rwlock").write_text('{"read": {')
    (folder / ".state" / "stale.1234567.txt").write_text("left by a process that has ended")
    future = time.time() + 1e6
    os.utime(folder / "results" / "mjem" / "accuracy.json", (future, future))
    (folder / "results" / "mjem" / "quality.json").unlink()


@pytest.mark.more
def test_reading_the_snakefile_changes_nothing(folder):
    spoil(folder)
    before = tree(folder)
    said = run(folder, "snakemake", "-n")
    assert tree(folder) == before
    assert "note: dvc.lock is torn; planned with the copy kept in .state/dvc.lock" in said
    assert "note: .dvc/tmp/rwlock is torn" in said
    assert "quality@mjem: results/mjem/quality.json is missing" in said
    assert "train" not in re.findall(r"^(\w+) +\d+$", said, re.MULTILINE)  # the copy says that it was made
    run(folder, "snakemake", "--list")
    run(folder, "snakemake", "--lint", status=1)
    assert tree(folder) == before


def test_lint_finds_only_what_the_documentation_explains(folder):
    """docs/engines.md, Lint."""
    said = run(folder, "snakemake", "--lint", status=1)
    titles = set(re.findall(r"^    \* (.*):$", said, re.MULTILINE))
    assert titles == {"Specify a conda environment or container for each rule."}


@pytest.mark.more
def test_what_was_left_is_mended_before_the_first_job(folder):
    """Also where nothing but the lock file is to be mended."""
    text = (folder / "dvc.lock").read_text()
    (folder / ".state").mkdir(exist_ok=True)
    shutil.copy(folder / "dvc.lock", folder / ".state" / "dvc.lock")
    tear(folder / "dvc.lock")
    future = time.time() + 1e6
    os.utime(folder / "results" / "mjem" / "accuracy.json", (future, future))
    assert planned(folder) == {"params"}
    said = run(folder, "snakemake")
    assert "dvc.lock was torn; the copy kept in .state/dvc.lock is back" in said
    before, after = (yaml.safe_load(content)["stages"] for content in (text, (folder / "dvc.lock").read_text()))
    assert {address: after[address] for address in before if address != "params"} == {
        address: job for address, job in before.items() if address != "params"
    }
    assert (folder / "results" / "mjem" / "accuracy.json").stat().st_mtime <= time.time()
    assert planned(folder) == set()


FIRST = [
    (("--config", "sett=1"), "--config sett: unknown"),
    (("--workflow-profile", "profiles/slurm", "--config", "WORD"), "--config 'WORD': expected"),
    (("--config", "set=runs.mjem.train.n_steps=-1"), "params.yaml: runs.mjem.train.n_steps: is -1"),
]
FURTHER = [
    (("--config", "WORD"), "--config 'WORD': expected set=runs.NAME.SECTION.KEY=VALUE; files and jobs to make"),
    (("--config", "set=ood.seed=1", "results/mjem/quality.json"), "--config 'results/mjem/quality.json': expected"),
    (("--config", "a=1"), "--config 'a=1': expected"),
    (("--workflow-profile", "profiles/local", "--config", "WORD"), "--config 'WORD': expected"),
    (("--config", "set={a: 1}"), "--config set=: is {'a': '1'}, expected runs.NAME"),
]


@pytest.mark.parametrize(
    ("words", "message"), [*FIRST, *(pytest.param(*case, marks=pytest.mark.more) for case in FURTHER)]
)
def test_a_mistake_on_the_command_line_ends_in_a_line(folder, words, message):
    said = run(folder, "snakemake", "-n", *words, status=1)
    (line,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {message}")
    assert "Traceback" not in said


@pytest.mark.parametrize(
    "command",
    [
        "snakemake --rulegraph mermaid-js",
        pytest.param("dvc dag --mermaid --collapse-foreach-matrix", marks=pytest.mark.more),
    ],
)
def test_the_picture_of_the_graph_in_the_documentation_is_that_of(command, folder):
    made = run(folder, *command.split())
    names = dict(re.findall(r'^\s*(\w+)\["?(\w+)"?\]$', made, re.MULTILINE))
    arrows = re.findall(r"^\s*(\w+)\s*-->\s*(\w+)$", made, re.MULTILINE)
    graph = networkx.DiGraph((names[a], names[b]) for a, b in arrows)
    graph.remove_nodes_from(["params", "all"])
    graph = networkx.transitive_reduction(graph)
    lines = [f"{name} --> {' & '.join(sorted(graph[name]))}" for name in sorted(graph) if graph[name]]
    said = (ROOT / "docs" / "engines.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"```mermaid\n(.*?)```", said, re.DOTALL)
    assert [line.strip() for line in shown.splitlines()] == ["flowchart LR", *lines]


def test_snakemakes_report_is_shown_draws_by_classes_only_where_they_are_made(folder, monkeypatch):
    monkeypatch.chdir(folder)
    text = Path("params.yaml").read_text()
    for classwise, more in (("false", set()), ("true", {"classwise.png"})):
        Path("params.yaml").write_text(re.sub(r"classwise: (true|false)", f"classwise: {classwise}", text))
        made = Planned(SimpleNamespace(is_main_process=False), {}).outputs("baseline")
        shown = {Path(out).name for out in made if "report" in getattr(out, "flags", {})}
        assert shown == {"initial.png", "heldout.png"} | more
        assert {Path(out).name for out in made} >= {"classwise.png", "classwise.json"}


@pytest.mark.slow
@pytest.mark.more
def test_snakemakes_report_shows_what_it_has_no_record_of(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    shutil.rmtree(tmp_path / "copy" / ".snakemake")
    run(tmp_path / "copy", "snakemake", "--report", "report.zip")
    with zipfile.ZipFile(tmp_path / "copy" / "report.zip") as archive:
        text = b"".join(map(archive.read, archive.namelist())).decode(errors="replace")
        names = {Path(name).name for name in archive.namelist()}
    assert {"demo.csv", "start_smoke.csv", "report.html", "grid.png", "initial.png", "curves.svg"} <= names
    assert "first chains of its" in text
