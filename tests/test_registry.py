"""Registries: an entry is found by its file, and makes stale exactly the jobs that use it."""

import pytest
import yaml
from smoke import ROOT

from mebm import registry
from mebm.engine import records
from mebm.registry import Registry
from mebm.settings.suite import check_params


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A package `entries` on the path, which the registry takes for the project's."""
    made = tmp_path / "entries"
    made.mkdir()
    (made / "__init__.py").touch()
    (made / "_helper.py").touch()
    (made / "words.txt").touch()
    (made / "second.py").write_text('NUMBER = 2\nOTHER = NUMBER\nlower = 1\n\nraise SystemExit("imported")\n')
    (made / "first.py").write_text("NUMBER = 1\n")
    monkeypatch.setattr(registry, "ROOT", tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return made


def test_entries_are_files_of_the_folder(folder):
    entries = Registry("entries")
    assert entries.names() == ("first", "second")
    assert entries.file("second") == "entries/second.py"
    assert entries.module("first").NUMBER == 1
    (folder / "third.py").touch()
    assert entries.names() == ("first", "second", "third")
    assert Registry("entries", ".txt").names() == ("words",)
    for name in ("fourth", "_helper", "../entries/first"):
        with pytest.raises(KeyError):
            entries.module(name)


def test_constants_are_read_without_importing(folder):
    assert Registry("entries").constants("second") == {"NUMBER": 2}


@pytest.fixture(scope="module")
def users() -> dict[str, set[str]]:
    """Jobs of the suite `paper` by each file that their records name."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    content["suite"] = content["suites"]["paper"]
    params = check_params(ROOT / "params.yaml", content)
    found: dict[str, set[str]] = {}
    for stage, name in params.jobs():
        for path in records.record(params, stage, name)["code"]:
            found.setdefault(path, set()).add(f"{stage}@{name}")
    return found


def test_a_reader_makes_only_its_own_data_sets_stale(users):
    assert users["mebm/sources/svhn.py"] == {"compared@svhn"}
    assert users["mebm/sources/cifar10.py"] == {"dataset@cifar10"}
    assert users["mebm/sources/celeba_hq.py"] == {"dataset@celeba_hq", "compared@celeba"}
    assert users["mebm/sources/reading/cifar.py"] == {"dataset@cifar10", "dataset@cifar100", "compared@cifar100"}
    assert "mebm/sources/tiny_imagenet.py" not in users


def test_a_network_makes_stale_what_measures_by_it(users):
    stages = {job.split("@")[0] for job in users["mebm/measure/networks/inception.py"]}
    assert stages == {"features", "reference", "baseline", "curves", "quality", "generate", "neighbours"}
    assert "mebm/measure/networks/classifier.py" not in users


def test_a_table_makes_itself_and_the_page_stale(users):
    for name in ("generation", "classification", "steps"):
        assert users[f"mebm/show/tables/{name}.py"] == {f"tables@{name}", "report@paper"}
    assert users["mebm/show/tables/start.py"] == {"start@paper", "report@paper"}
    assert "mebm/show/tables/demo.py" not in users


def test_a_block_of_the_page_makes_the_page_stale(users):
    assert users["mebm/show/report/blocks/ood.html.j2"] == {"report@paper"}
