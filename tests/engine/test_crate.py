"""The metadata of a bundle: every file, job and hash of it, by the profiles of Workflow Run RO-Crate."""

import hashlib
import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import yaml
from smoke import ROOT

from mebm.engine.bundle import bundle
from mebm.engine.crate import METADATA, RUN_PROFILES, WORKFLOW_CRATE, crate
from mebm.engine.graph import Graph
from mebm.errors import DataError
from mebm.settings.suite import load_params

ENVIRONMENT = {
    "python": "3.11.9",
    "packages": {"snakemake": "9.27.1", "dvc": "3.67.1", "torch": "2.14.1", "mebm": "0.1.0"},
    "date": "2026-11-28",
}


@pytest.fixture(scope="module")
def project(recorded, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("crate") / "project"
    shutil.copytree(recorded, folder)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def made_of(project: Path, out: Path) -> dict[str, bytes]:
    settings = load_params(project / "params.yaml")
    bundle(project, Graph(project / "dvc.yaml", settings), settings.suite, ENVIRONMENT, out)
    with zipfile.ZipFile(out) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@pytest.fixture(scope="module")
def contents(project, tmp_path_factory) -> dict[str, bytes]:
    return made_of(project, tmp_path_factory.mktemp("crate") / "smoke.zip")


@pytest.fixture(scope="module")
def entities(contents) -> dict[str, dict]:
    graph = json.loads(contents[METADATA])["@graph"]
    found = {entity["@id"]: entity for entity in graph}
    assert len(found) == len(graph)
    return found


def is_a(entity: dict, kind: str) -> bool:
    return kind in ([entity["@type"]] if isinstance(entity["@type"], str) else entity["@type"])


def ids(refs: list[dict] | dict) -> list[str]:
    return [ref["@id"] for ref in (refs if isinstance(refs, list) else [refs])]


def test_every_file_is_described_with_its_size_and_hash(contents, entities):
    files = {entity["@id"]: entity for entity in entities.values() if is_a(entity, "File")}
    assert set(files) == set(contents) - {METADATA}
    assert set(files) <= set(ids(entities["./"]["hasPart"]))
    for name in set(files) - {"SHA256SUMS"}:
        assert files[name]["contentSize"] == str(len(contents[name]))
        assert files[name]["sha256"] == hashlib.sha256(contents[name]).hexdigest()
    assert f"{hashlib.sha256(contents[METADATA]).hexdigest()}  {METADATA}" in contents["SHA256SUMS"].decode()


def test_every_reference_leads_somewhere(entities):
    def refs(value) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(refs, value))
        if isinstance(value, dict):
            inner = set().union(*(refs(part) for part in value.values()))
            return inner | ({value["@id"]} if set(value) == {"@id"} else set())
        return set()

    assert not {ref for ref in refs(list(entities.values())) if ref not in entities and "://" not in ref}


def test_every_job_stands_there_with_what_it_read_and_made(contents, entities):
    stages = yaml.safe_load(contents["dvc.lock"])["stages"]
    jobs = {name: entity for name, entity in entities.items() if name.startswith("#job/")}
    assert {entity["name"] for entity in jobs.values()} == set(stages)
    outside = 0
    for entity in jobs.values():
        stage = stages[entity["name"]]
        assert entity["description"] == stage["cmd"]
        for kind, key in (("object", "deps"), ("result", "outs")):
            assert [entities[name]["name"] for name in ids(entity[kind])] == [entry["path"] for entry in stage[key]]
            for name, entry in zip(ids(entity[kind]), stage[key], strict=True):
                if is_a(entities[name], "CreativeWork"):
                    assert entities[name]["identifier"] == f"md5:{entry['md5']}"
                    outside += 1
        assert entities[entities[ids(entity["instrument"])[0]]["@id"]]["name"].startswith("stages.")
    assert outside > 10
    assert {"#data/digits/train.npz", "#results/mebm/train/checkpoint.pt"} <= set(entities)


def test_the_run_is_of_the_workflow_by_the_profiles_it_names(entities):
    root, run, workflow = entities["./"], entities["#run"], entities["Snakefile"]
    assert set(ids(root["conformsTo"])) == {*RUN_PROFILES.values(), WORKFLOW_CRATE}
    assert (root["datePublished"], ids(root["license"])) == ("2026-11-28", ["https://spdx.org/licenses/MIT"])
    assert ids(root["mainEntity"]) == ids(run["instrument"]) == ["Snakefile"]
    assert {"ComputationalWorkflow", "SoftwareSourceCode", "HowTo"} <= set(workflow["@type"])
    assert {"params.yaml", "#mebm", "#stages"} == set(ids(run["object"]))
    assert "results/tables/demo.md" in ids(run["result"])
    steps = [entities[name] for name in ids(workflow["step"])]
    assert [step["position"] for step in steps] == [str(n) for n in range(len(steps))]
    order = [step["name"] for step in steps]
    assert order.index("params") < order.index("train") < order.index("tables")
    versions = {
        entities[name]["name"]: entities[name]["softwareVersion"] for name in ids(workflow["softwareRequirements"])
    }
    assert versions == {"python": "3.11.9", **ENVIRONMENT["packages"]}
    controls = [entities[name] for name in ids(entities["#organise"]["object"])]
    assert {ids(control["object"])[0] for control in controls} == {
        name for name in entities if name.startswith("#job/")
    }


def test_equal_results_are_described_by_equal_bytes(project, contents, tmp_path):
    assert made_of(project, tmp_path / "again.zip")[METADATA] == contents[METADATA]


def test_without_its_workflow_nothing_is_written(project, tmp_path):
    folder = tmp_path / "project"
    shutil.copytree(project, folder)
    (folder / "Snakefile").unlink()
    with pytest.raises(DataError, match=r"Snakefile: no such file, but a bundle describes it"):
        made_of(folder, tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('license = "MIT"\n', "", "project.license is None, expected"),
        ('license = "MIT"', 'license = ["MIT"]', "project.license is "),
        ("[project]", "[project", "cannot be read"),
    ],
)
def test_a_licence_that_cannot_be_read_is_named(old, new, message):
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert text.count(old) == 1
    contents = {"Snakefile": b"", "params.yaml": b"", "pyproject.toml": text.replace(old, new).encode()}
    with pytest.raises(DataError, match=rf"^pyproject\.toml: {re.escape(message)}"):
        crate("smoke", contents, {}, ENVIRONMENT)
