"""The suites of docs/suites.md, put into the project's parameter file as they stand, are what both engines run."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from engines import copy_project, planned, run
from PIL import Image
from recorded import record_as_done
from smoke import ROOT

from mebm.engine.graph import Graph
from mebm.settings.suite import load_params

TEXT = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL)


def suites() -> dict[str, tuple[str, str]]:
    """Each suite and the line that picks it, by name."""
    pairs = zip(BLOCKS[::2], BLOCKS[1::2], strict=True)
    return {line.split("*")[1].strip(): (suite, line) for suite, line in pairs}


def put(folder: Path, name: str) -> None:
    """The project's parameter file with that suite in it, as the page says."""
    suite, line = suites()[name]
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("\nsuites:\n", f"\nsuites:\n{suite}\n")
    (folder / "params.yaml").write_text(re.sub(r"^suite: \*demo .*\n", line, text, flags=re.MULTILINE))


def test_the_page_holds_three_suites():
    assert set(suites()) == {"flowers", "numbers", "averaged"}


@pytest.mark.parametrize("name", suites())
def test_both_engines_run_the_suite_of_the_page(tmp_path, name):
    folder = copy_project(tmp_path / "project")
    put(folder, name)
    loaded = load_params(folder / "params.yaml")
    assert loaded.suite == name
    graph = Graph(folder / "dvc.yaml", loaded)
    jobs = {f"{stage}@{of}" for stage, of in loaded.jobs()} | {"params"}
    assert {f"{stage}@{table}" for stage, table in (("tables", "generation"), ("report", name))} < jobs
    listed = run(folder, "dvc", "stage", "list", "--name-only").split()
    assert set(listed) == {graph.address(stage, of) for stage, of in loaded.jobs()} | {"params"}
    assert planned(folder) == jobs


def test_a_run_of_averaged_weights_waits_for_the_training_of_the_page(tmp_path):
    folder = copy_project(tmp_path / "project")
    put(folder, "averaged")
    loaded = load_params(folder / "params.yaml")
    made = loaded.resolve("import_checkpoint", "mjem_svhn_ema")
    assert (made.weights.ema_decay, made.train) == (0.999, loaded.resolve("train", "mjem_svhn").train)
    order = [job.address for job in Graph(folder / "dvc.yaml", loaded).ordered()]
    wanted = ("train@mjem_svhn", "import_checkpoint@mjem_svhn_ema", "sample_imported@mjem_svhn_ema")
    assert [address for address in order if address in wanted] == list(wanted)


def test_the_smallest_suite_is_that_of_the_page():
    assert list(yaml.safe_load(suites()["flowers"][0])["flowers"]) == ["name", "datasets", "trained", "tables"]


def test_the_data_set_of_the_page_is_made_from_a_folder_of_pictures(tmp_path):
    folder = copy_project(tmp_path / "project")
    put(folder, "flowers")
    (folder / "pictures" / "flowers").mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (110, 40, 48, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "pictures" / "flowers" / f"{number}.png")
    run(folder, sys.executable, "-m", "stages.dataset", "--dataset", "flowers", "--out", "out")
    with np.load(folder / "out" / "train.npz") as train, np.load(folder / "out" / "test.npz") as test:
        assert train["images"].shape == (10, 3, 32, 32)
        assert test["images"].shape == (100, 3, 32, 32)


def test_analyses_need_no_images_to_compare_with(project, smoke_params):
    """The folder of such images is there and empty, for DVC as for Snakemake."""
    del smoke_params["suite"]["compared"]
    folder = project("alone", smoke_params)
    assert "ood@mjem" in planned(folder)
    record_as_done(folder)
    assert planned(folder) == set()
    assert "changed deps" not in str(json.loads(run(folder, "dvc", "status", "--json", "ood@mjem") or "{}"))
