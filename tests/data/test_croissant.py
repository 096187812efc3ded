"""Prepared data sets described as Croissant: what stands in the manifest, and nothing else in the folder changes."""

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import smoke

from mebm.__main__ import main
from mebm.data import croissant
from mebm.data.prepare import prepare
from mebm.errors import DataError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("croissant") / "digits"
    prepare(smoke.section("dataset"), "digits", folder)
    return folder


@pytest.fixture
def folder(prepared, tmp_path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "data" / "digits"))


def described(folder: Path) -> dict:
    return json.loads((folder / croissant.NAME).read_text(encoding="utf-8"))


def test_files_classes_and_origin_are_those_of_the_manifest(folder):
    manifest = croissant.write(folder)
    found = described(folder)
    assert (found["@type"], found["conformsTo"]) == ("sc:Dataset", "http://mlcommons.org/croissant/1.0")
    assert (found["name"], found["license"], found["isBasedOn"]) == ("digits", manifest["licence"], manifest["origin"])
    assert "1497 images to train on and 300 held out, in 10 classes; uint8 [1, 8, 8]" in found["description"]
    archives = {entry["@id"]: entry for entry in found["distribution"] if entry["@type"] == "cr:FileObject"}
    assert set(archives) == {"train.npz", "test.npz"}
    for name, entry in archives.items():
        content = (folder / name).read_bytes()
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["contentSize"] == f"{len(content)} B"
    (classes,) = (entry for entry in found["recordSet"] if entry["@id"] == "classes")
    assert [row["classes/name"] for row in classes["data"]] == manifest["labels"]
    assert len(found["recordSet"]) == 5


def test_every_identifier_is_named_once_and_every_reference_leads_to_one(folder):
    croissant.write(folder)
    text = json.dumps({key: value for key, value in described(folder).items() if key != "@context"})
    named = re.findall(r'"@type": "cr:\w+", "@id": "([^"]+)"', text)
    assert len(named) == len(set(named)) > 10
    referred = set(re.findall(r'\{"@id": "([^"]+)"\}', text))
    assert referred <= set(named)
    assert {"train.npz", "train-images", "test-labels", "classes/label"} <= referred


def test_the_library_of_the_format_accepts_it_and_reads_classes_and_arrays(folder):
    library = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed (docs/sharing.md)")
    croissant.write(folder)
    found = library.Dataset(folder / croissant.NAME)
    assert not found.metadata.ctx.issues.errors
    names = [row["classes/name"] for row in found.records("classes")]
    assert names == [str(digit) for digit in range(10)]
    (record,) = found.records("test-labels-array")
    labels = np.load(io.BytesIO(record["test-labels-array/content"]))
    with np.load(folder / "test.npz") as archive:
        assert np.array_equal(labels, archive["labels"])


def test_a_set_without_labels_has_no_classes_and_an_address_is_its_url():
    manifest = {
        **{"name": "faces", "origin": ["https://example.org/faces.zip"], "licence": "-", "recipe": "As they are."},
        **{"recipe_version": 2, "shape": [3, 8, 8], "labels": None, "counts": {"train": 2, "test": 0}},
        "sha256": {"train": "a", "test": "b"},
    }
    found = croissant.described(manifest, {"train": 1, "test": 2})
    assert found["url"] == "https://example.org/faces.zip"
    assert [entry["@id"] for entry in found["recordSet"]] == ["train-images-array", "test-images-array"]
    assert "labels" not in json.dumps(found["distribution"])


def test_the_command_describes_every_set_of_the_suite_and_changes_no_other_file(folder, project, monkeypatch, capsys):
    monkeypatch.chdir(project("a"))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["croissant", "--data", str(folder.parent)]) == 0
    assert capsys.readouterr().out == f"{folder / croissant.NAME}: 1497 images to train on, 300 held out\n"
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.pop(croissant.NAME)
    assert after == before


@pytest.mark.parametrize("missing", ["manifest.json", "train.npz"])
def test_a_set_that_is_not_prepared_is_named(folder, missing):
    (folder / missing).unlink()
    with pytest.raises(DataError, match=re.escape(missing)):
        croissant.write(folder)
    assert not (folder / croissant.NAME).exists()


def test_a_manifest_without_a_hash_of_each_part_is_named(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["sha256"]["test"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match=r"manifest\.json: .*sha256\.test"):
        croissant.write(folder)
