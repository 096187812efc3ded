"""The example of docs/extending.md, put into a copy of the project piece by piece, works there."""

import json
import re
import sys
from pathlib import Path

import pytest
import smoke
import torch
import yaml
from engines import copy_project, planned, run
from smoke import ROOT

from mebm.data.images import save_images
from mebm.method.energy import build_model
from mebm.training.checkpoint import Checkpoint, save_checkpoint

DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PIECE = re.compile(r"`([\w./]+)`, (?:new|(before|after) `([^`]+)`):\n\n```\w+\n(.*?)```", re.DOTALL)


def put(folder: Path, pieces: list[tuple[str, str, str, str]]) -> None:
    """Write the pieces into the files that they name, before or after the line that starts so."""
    for file, where, line, text in pieces:
        path = folder / file
        if not where:
            path.write_text(text)
            continue
        lines = path.read_text().splitlines(keepends=True)
        (at,) = [number for number, found in enumerate(lines) if found.startswith(line)]
        lines.insert(at + (where == "after"), text)
        path.write_text("".join(lines))


@pytest.fixture(scope="module")
def pieces() -> list[tuple[str, str, str, str]]:
    found = PIECE.findall(DOCUMENT)
    assert len(found) == DOCUMENT.count("```") // 2 == 6  # every block of code says where it goes
    return found


@pytest.fixture(scope="module")
def project(tmp_path_factory, pieces) -> Path:
    """A copy of the project with the example in it, and a checkpoint and data to look at."""
    content = smoke.smoke_params()
    for file, *_, text in pieces:
        content |= yaml.safe_load(text) if file == "params.yaml" else {}
    folder = copy_project(tmp_path_factory.mktemp("extended") / "project", content)
    put(folder, [piece for piece in pieces if piece[0] != "params.yaml"])
    train = {**content["train"], "pyx_weight": 1.0}
    torch.manual_seed(0)
    model = build_model((1, 8, 8), 10, **{key: train[key] for key in ("depth", "width", "head", "norm", "dropout")})
    buffer = torch.full((20, 1, 8, 8), -1.0)
    buffer[:, :, :4] = 1.0  # half black, half white
    checkpoint = folder / "results" / "mjem" / "train" / "checkpoint.pt"
    save_checkpoint(checkpoint, Checkpoint(model, buffer, train, (1, 8, 8), 10, 1))
    save_images(folder / "data" / "digits" / "train.npz", torch.full((30, 1, 8, 8), 51, dtype=torch.uint8).numpy())
    return folder


def test_the_stage_runs_and_its_block_is_in_the_report(project):
    run(project, sys.executable, "-m", "stages.params", "--out", "results/params")
    for command in (
        "brightness --run mjem --out results/mjem/analyses/brightness",
        "report --suite smoke --results results --out results/smoke/report.html",
    ):
        run(project, sys.executable, "-m", *f"stages.{command}".split())
    record = json.loads((project / "results/mjem/analyses/brightness/metrics.json").read_text())
    assert record["data"] == {"brightness": 51.0, "contrast": 0.0}
    assert record["samples"] == {"brightness": 127.5, "contrast": 127.5}
    text = (project / "results/smoke/report.html").read_text()
    assert "<h4>Brightness</h4>" in text
    assert 'alt="Histograms of the mean grey level of data and of samples"' in text
    assert re.search(r'<th scope="row">samples, brightness</th>\s*<td class="number">127.5</td>', text)
    assert "dvc repro brightness@mjem" in text
    shown = run(project, sys.executable, "-m", "stages.brightness", "--help")
    assert re.search(r"--n-bins X\s+\(32\)", shown)


def test_both_engines_know_it(project):
    record = "results/mjem/analyses/brightness/metrics.json"
    assert "brightness@mjem" in planned(project, record)
    assert "brightness@mjem" in run(project, "dvc", "stage", "list", "--name-only").split()


def test_its_record_knows_the_modules_that_it_imports(project):
    record = yaml.safe_load((project / "results" / "params" / "brightness.mjem.yaml").read_text())
    assert {
        "stages/brightness.py",
        "mebm/figures/plots.py",
        "mebm/training/checkpoint.py",
        "mebm/method/wideresnet.py",
    } <= set(record["code"])
    assert "mebm/training/loop.py" not in record["code"]
    assert record["brightness"] == {"n_bins": 32}


def test_the_parameters_fit_the_project_file(project, tmp_path, pieces):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    put(tmp_path, [piece for piece in pieces if piece[0] == "params.yaml"])
    script = "from mebm import params; print(params.load(%r).resolve('brightness', 'mjem_mnist').brightness.n_bins)"
    assert run(project, sys.executable, "-c", script % str(tmp_path / "params.yaml")).strip() == "32"
