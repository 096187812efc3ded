"""Workflow, hooks and images name commands, files and versions that are there."""

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml
from smoke import ROOT


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def targets() -> set[str]:
    """What the Makefile makes."""
    return set(re.search(r"^\.PHONY: (.+)$", text("Makefile"), re.MULTILINE)[1].split())


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments) of each line."""
    lines = text("Dockerfile").replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="module")
def workflow() -> dict:
    return yaml.safe_load(text(".github/workflows/ci.yml"))


def commands(workflow: dict) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


def test_the_workflow_runs_what_the_makefile_and_the_tests_have(workflow):
    found = commands(workflow)
    made = {match for command in found for match in re.findall(r"^make (\S+)", command)}
    assert made
    assert made <= targets()
    assert all(command.startswith(("make ", ".venv/bin/ruff ", ".venv/bin/python -m pytest ")) for command in found)
    files = {word for command in found for word in command.split() if word.startswith("tests/")}
    assert files
    assert all((ROOT / file).is_file() for file in files)
    assert "mark.slow\ndef test_whole_chain_under_both_engines" in text("tests/engine/test_graph.py")


def test_the_workflow_takes_the_oldest_and_the_newest_python_within_a_limit_and_actions_of_a_major_version(workflow):
    jobs = workflow["jobs"].values()
    assert {job["timeout-minutes"] for job in jobs} == {20}
    versions = tomllib.loads(text("pyproject.toml"))["project"]["classifiers"]
    pythons = [line.rpartition(" ")[2] for line in versions if "Python ::" in line]
    assert workflow["jobs"]["fast"]["strategy"]["matrix"]["python"] == [pythons[0], pythons[-1]]
    used = [step["uses"] for job in jobs for step in job["steps"] if "uses" in step]
    assert used
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)
    assert workflow["permissions"] == {"contents": "read"}


def test_hooks_run_here_without_network_and_lint_as_the_workflow_does(workflow):
    (repository,) = yaml.safe_load(text(".pre-commit-config.yaml"))["repos"]
    assert repository["repo"] == "local"
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
    entries = [hook["entry"] for hook in repository["hooks"]]
    files = {word for entry in entries for word in entry.split() if word.startswith("tests/")}
    assert f"tests/{Path(__file__).name}" in files
    assert all((ROOT / file).is_file() for file in files)
    for lint in (command.removesuffix(" .") for command in commands(workflow) if "ruff" in command):
        assert any(entry.startswith(lint) for entry in entries)


def test_the_image_is_made_of_files_that_are_there_by_a_target_of_the_makefile():
    steps = dockerfile()
    assert steps[0][0] == "FROM"
    assert {name for name, _ in steps} <= {"FROM", "RUN", "WORKDIR", "COPY", "ARG", "ENV", "CMD"}
    copied = [source for name, words in steps if name == "COPY" for source in words.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)
    kept = {line[1:] for line in text(".dockerignore").splitlines() if line.startswith("!")}
    assert kept == set(copied)
    needed = re.search(r"^\$\(VENV\)/\.installed: (.+?) \|", text("Makefile"), re.MULTILINE)[1].split()
    assert {"Makefile", ".dvc/config", *needed} <= set(copied)
    package = tomllib.loads(text("pyproject.toml"))
    assert {package["project"]["readme"], *package["project"]["license-files"]} <= set(copied)
    makes = [word for name, words in steps if name == "RUN" for word in re.findall(r"(?:^|&& )make (\S+)", words)]
    assert makes == ["install"]
    folder = next(words for name, words in steps if name == "WORKDIR")
    assert any(name == "ENV" and f"PATH={folder}/.venv/bin:$PATH" in words for name, words in steps)
    assert "://" not in text("Dockerfile")


def test_kubernetes_apptainer_and_editors_take_the_same_image_and_folder():
    places = [words for name, words in dockerfile() if name == "WORKDIR"]
    image, folder = "mebm:latest", places[-1]
    kubernetes = yaml.safe_load(text("profiles/kubernetes/config.yaml"))
    assert kubernetes["container-image"] == image
    assert kubernetes["kubernetes-persistent-volumes"] == [f"mebm:{folder}"]
    assert f"From: {image}\n" in text("apptainer.def")
    editor = json.loads(text(".devcontainer/devcontainer.json"))
    built = ROOT / ".devcontainer" / editor["build"]["dockerfile"]
    assert built.resolve() == (ROOT / "Dockerfile").resolve()
    assert editor["workspaceFolder"] == folder
    assert editor["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"].startswith(places[0])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "SECURITY.md"])
def test_pages_for_people_are_a_page_and_name_what_is_there(name):
    page = text(name)
    assert len(page.splitlines()) < 60
    assert set(re.findall(r"(?:`|^    )make ([a-z][a-z-]*)", page, re.MULTILINE)) <= targets()
    assert all((ROOT / link.partition("#")[0]).is_file() for link in re.findall(r"\]\(([^)]+)\)", page))
