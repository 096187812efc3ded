"""The plan of stale jobs: what changes it, what does not, and what it says."""

import os
import shutil
from pathlib import Path

import pytest
import yaml
from edits import DECISIVE, HARMLESS, edit_text
from engines import run
from smoke import ROOT

from mebm.engine import code, records
from mebm.engine.graph import PARAMS_STAGE, Graph
from mebm.engine.hashes import Hashes, md5
from mebm.engine.plan import Plan, differences, make_plan
from mebm.errors import DataError
from mebm.settings.suite import load_params


@pytest.fixture
def folder(recorded, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(recorded, tmp_path / "project", ignore=shutil.ignore_patterns(".git")))


def plan(folder: Path, **options) -> Plan:
    code.forget()
    settings = load_params(folder / "params.yaml")
    graph = Graph(folder / "dvc.yaml", settings)
    return make_plan(graph, settings, (folder / "params.yaml").read_text(), folder, **options)


def test_nothing_is_stale_where_all_is_as_recorded(recorded, folder, tmp_path):
    assert plan(folder).stale == []
    shutil.copytree(recorded, tmp_path / "whole", symlinks=True)
    assert run(tmp_path / "whole", "dvc", "status") == "Data and pipelines are up to date.\n"


@pytest.mark.parametrize("kind", HARMLESS)
def test_harmless_edits_start_only_the_job_that_reads_them(folder, kind):
    HARMLESS[kind](folder)
    found = plan(folder)
    stale = found.stale
    assert stale[0] == PARAMS_STAGE
    assert ("no result is stale; only `params` runs" in found.text(stale)) == (len(stale) == 1)
    expected = {"curves", "inventory", "report"} if "not reach" in kind else set()
    assert {address.split("@")[0] for address in stale[1:]} == expected


def test_another_grey_between_pictures_trains_nothing(folder):
    edit_text("mebm/figures/grids.py", "128, dtype", "127, dtype")(folder)
    found = plan(folder)
    drawing = {"baseline", "curves", "generate", "pictures", "sample"}
    assert {address.split("@")[0] for address in found.own} == {PARAMS_STAGE, *drawing}
    assert not [address for address in found.stale if address.startswith(("train@", "features@"))]


@pytest.mark.parametrize("kind", DECISIVE)
def test_decisive_edits_train(folder, kind):
    DECISIVE[kind](folder)
    found = plan(folder)
    assert {"train@mebm", "train@mjem"} <= set(found.own)
    assert {"sample@mjem", "tables@demo", "report@smoke"} <= set(found.stale)


def test_intervals_of_saving_count_where_training_goes_back_to_them(folder):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["train"]["on_divergence"] = "restart"
    texts = []
    for save_every in (3, 4):
        content["compute"]["save_every"] = save_every
        (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        texts.append(records.text(load_params(folder / "params.yaml"), "train", "mjem"))
    assert texts[0] != texts[1]


def test_devices_count_only_where_each_has_statistics_of_its_own(folder):
    content = yaml.safe_load((folder / "params.yaml").read_text())
    for changes, counts in (({}, True), ({"sync_batchnorm": True}, False), ({"norm": "layer"}, False)):
        texts = []
        for devices in (1, 2):
            content["train"] |= {"norm": "batch", "sync_batchnorm": False, **changes}
            content["compute"]["devices"] = devices
            (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
            texts.append(records.text(load_params(folder / "params.yaml"), "train", "mjem"))
        assert (texts[0] != texts[1]) == counts, changes


def test_inputs_from_outside_count_by_content_and_as_they_were_where_they_are_not_here(folder, monkeypatch):
    monkeypatch.chdir(folder)
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["reference"]["file"] = "statistics.npz"
    content["features"] |= {"network": "inception", "preprocessing": "pytorch_fid"}
    content["suite"]["compared"]["other_digits"] = {"dataset": {"source": "image_folder", "path": "pictures"}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    def found() -> dict[str, dict]:
        records._signature.cache_clear()
        settings = load_params(folder / "params.yaml")
        jobs = (("reference", "digits"), ("compared", "other_digits"), ("train", "mjem"))
        return {stage: records.record(settings, stage, name, folder).get("inputs", {}) for stage, name in jobs}

    assert found() == {"reference": {}, "compared": {}, "train": {}}
    (folder / "statistics.npz").write_bytes(b"one")
    (folder / "pictures" / "cats").mkdir(parents=True)
    (folder / "pictures" / "cats" / "a.png").write_bytes(b"1")
    first = found()
    assert first["reference"] == {"statistics.npz": md5(b"one")}
    assert set(first["compared"]) == {"pictures"}
    assert first["train"] == {}
    (folder / "statistics.npz").write_bytes(b"two")
    (folder / "pictures" / "cats" / "b.png").write_bytes(b"1")
    second = found()
    assert all(first[stage] != second[stage] for stage in ("reference", "compared"))
    records.write(load_params(folder / "params.yaml"), "results/params")
    (folder / "statistics.npz").unlink()
    shutil.rmtree(folder / "pictures")
    assert found() == second


def test_a_folder_outside_the_project_has_dvcs_hash(tmp_path):
    project, folders = tmp_path / "project", ("../outside", "inside")
    project.mkdir()
    shutil.copy(ROOT / ".dvcignore", project)
    for folder in folders:
        for name in ("a.txt", ".mebm.export.a", "__pycache__/b.pyc"):
            (project / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (project / folder / name).write_text(name)
    stage = {"cmd": "true", "deps": list(folders)}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"read": stage}}))
    run(project, "dvc", "init", "--no-scm", "--quiet")
    run(project, "dvc", "repro", "--quiet")
    deps = yaml.safe_load((project / "dvc.lock").read_text())["stages"]["read"]["deps"]
    assert {entry["path"]: entry["nfiles"] for entry in deps} == {"../outside": 3, "inside": 1}
    hashes = Hashes(project)
    assert all(hashes.of(entry["path"]) == entry["md5"] for entry in deps)


def test_it_says_which_value_or_module_and_whether_the_cache_has_the_result(folder):
    DECISIVE["train.lr"](folder)
    DECISIVE["an operator"](folder)
    found = plan(folder)
    said = found.text(found.stale)
    assert "train@mebm, train@mjem: train.lr 0.1 -> 0.05\n" in said
    assert "train@mebm, train@mjem: mebm/method/loss.py has changed\n" in said
    assert "more depend on these" in said
    assert found.text(["dataset@digits"]) == ""
    forced = plan(folder, forced=["dataset@digits"])
    assert forced.own["dataset@digits"] == ["computed anew, as asked"]
    assert {"train@mebm", "gaussian@digits", "report@smoke"} <= set(forced.follows)


def test_of_a_mapping_it_says_what_differs_inside():
    old = {"runs.mjem": {"dataset": "digits", "train": {"n_steps": 2, "lr": 0.1}}, "ridge": 0.1}
    new = {"runs.mjem": {"dataset": "digits", "train": {"n_steps": 3, "lr": 0.1}}, "ridge": 0.1}
    assert differences(old, new) == ["runs.mjem.train.n_steps 2 -> 3"]
    assert differences({"a": {"b": 1}}, {"a": 2}) == ['a {"b": 1} -> 2']


def test_missing_changed_and_unrecorded_outputs_make_a_job_stale(folder):
    quality, accuracy = (folder / "results" / "mjem" / f"{name}.json" for name in ("quality", "accuracy"))
    quality.unlink()
    accuracy.write_text("edited by hand")
    found = plan(folder)
    assert found.own["quality@mjem"] == ["results/mjem/quality.json is missing"]
    assert found.own["accuracy@mjem"] == ["results/mjem/accuracy.json is not as recorded"]
    assert found.cached >= {"quality@mjem", "accuracy@mjem"}  # nothing else has changed
    assert "summary@mjem" in found.follows
    stages = yaml.safe_load((folder / "dvc.lock").read_text())["stages"]
    del stages["train@mjem"]
    (folder / "dvc.lock").write_text(yaml.safe_dump({"stages": stages}))
    assert plan(folder).own["train@mjem"] == ["is not in dvc.lock"]


def test_times_do_not_count(folder):
    for n, path in enumerate(sorted(path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts)):
        os.utime(path, (1e9 + n % 7, 1e9 + n % 7))
    assert plan(folder).stale == []


@pytest.mark.parametrize("content", ["<<<<<<< ours\n", "stages: []\n", "stages: {a: {cmd: x, deps: [1]}}\n", "x\n"])
def test_a_lock_file_that_cannot_be_read_is_named(folder, content):
    (folder / "dvc.lock").write_text(content)
    with pytest.raises(DataError, match=r"dvc\.lock: (cannot be read|holds the conflict)"):
        plan(folder)


def test_a_kept_hash_is_of_the_content_that_a_file_has_now(folder):
    path = folder / "results" / "mjem" / "quality.json"
    hashes = Hashes(folder)
    first = hashes.of("results/mjem/quality.json")
    hashes.save()
    path.write_text("another")
    assert Hashes(folder).of("results/mjem/quality.json") == md5(b"another") != first
    (folder / ".state" / "hashes.json").write_text('{"half')
    assert Hashes(folder).of("results/mjem/quality.json") == md5(b"another")
    assert Hashes(folder).of("no/such") is None
