"""What would fail late is refused before any work."""

import re
import shutil
from pathlib import Path

import pytest
import yaml
from engines import copy_project, run
from smoke import ROOT

from mebm.engine.graph import Graph
from mebm.engine.plan import make_plan
from mebm.engine.refusal import check_imports, stale_runs
from mebm.errors import CheckpointError
from mebm.settings.suite import load_params

FILE = "data/released.pt"
COLOURED = ROOT / "tests" / "oracle" / "wrn10_1_uncond.pt"  # of the release's format, for 3x32x32


@pytest.fixture
def imported(tmp_path, monkeypatch, smoke_params) -> Path:
    """A project whose suite imports a checkpoint, which is not there; the current folder."""
    released = {"method": "R", "dataset": "digits", "checkpoint": FILE, "train": {"depth": 10}}
    smoke_params["suite"] |= {"imported": {"released": released}, "analysed": {}}
    folder = copy_project(tmp_path / "project", smoke_params)
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda: None, "no such file; put the checkpoint there, or give another path"),
        (lambda: Path(FILE).mkdir(), "is a folder that holds no epoch_*.pt and no exported model"),
        (lambda: Path(FILE).touch(), "is not a readable checkpoint"),
        (lambda: Path(FILE).write_bytes(COLOURED.read_bytes()[:-500]), "is not a readable checkpoint"),
        (lambda: shutil.copy(COLOURED, FILE), r"f.conv1.weight has shape [16, 3, 3, 3], expected [16, 1, 3, 3]"),
    ],
)
def test_a_checkpoint_that_cannot_be_imported_is_refused_by_name(imported, place, message):
    place()
    with pytest.raises(CheckpointError) as caught:
        check_imports(load_params("params.yaml"), ["released"])
    assert str(caught.value).startswith(f"imported.released.checkpoint: {FILE}: {message}")


def test_a_checkpoint_that_fits_is_accepted(imported):
    content = yaml.safe_load(Path("params.yaml").read_text())
    content["dataset"] |= {"source": "cifar10", "image_size": 32, "n_test": 0}
    Path("params.yaml").write_text(yaml.safe_dump(content))
    shutil.copy(COLOURED, FILE)
    check_imports(load_params("params.yaml"), ["released"])


def test_only_what_was_asked_for_is_refused(imported):
    settings = load_params("params.yaml")
    graph = Graph("dvc.yaml", settings)
    plan = make_plan(graph, settings, Path("params.yaml").read_text())
    for targets in ([], ["results/tables/demo.md"], ["quality_imported@released"]):
        assert stale_runs(graph, plan, "import_checkpoint", targets) == ["released"]
    for targets in (["gaussian"], ["results/mjem/quality.json"]):
        assert stale_runs(graph, plan, "import_checkpoint", targets) == []


def test_snakemake_says_in_a_line_that_a_checkpoint_is_not_there_and_only_where_it_was_asked_for(imported):
    said = run(imported, "snakemake", "-n", status=1)
    line = f"error: imported.released.checkpoint: {FILE}: no such file; put the checkpoint there, or give another path"
    assert [words for words in said.splitlines() if "released" in words] == [line]
    assert "MissingInput" not in said
    assert "no such file" not in run(imported, "snakemake", "-n", "results/mjem/quality.json")


def test_both_engines_stop_before_any_work(imported):
    shutil.copy(COLOURED, FILE)
    for command in (("snakemake",), ("dvc", "repro")):
        text = run(imported, *command, status=255 if command[0] == "dvc" else 1)
        line = rf"^error: imported\.released\.checkpoint: {re.escape(FILE)}: f\.conv1\.weight has shape"
        assert len(re.findall(line, text, re.MULTILINE)) == 1, text
        assert "Traceback" not in text
    assert not list(Path("data").rglob("*.npz"))
