"""What the project says of itself: one title, licence, author and version, and a version that comes from the tag."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from engines import WHO
from smoke import ROOT

# Of Citation File Format 1.2.0; the file was also validated by cffconvert.
REQUIRED = {"cff-version", "message", "title", "authors"}
OPTIONAL = {"abstract", "date-released", "doi", "keywords", "license", "references", "type", "version"}
REFERENCE = {"type", "title", "authors", "conference", "year", "url", "identifiers"}


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def citation() -> dict:
    return yaml.safe_load(text("CITATION.cff"))


@pytest.fixture(scope="module")
def pyproject() -> dict:
    return tomllib.loads(text("pyproject.toml"))


def test_the_citation_has_the_keys_of_its_format_and_names_the_paper_as_the_readme_does(citation):
    assert REQUIRED <= set(citation) <= REQUIRED | OPTIONAL
    assert (citation["cff-version"], citation["type"]) == ("1.2.0", "software")
    (paper,) = citation["references"]
    assert set(paper) == REFERENCE
    readme = " ".join(text("README.md").split())
    names = " and ".join(author["family-names"] for author in paper["authors"])
    (arxiv,) = (entry["value"] for entry in paper["identifiers"])
    assert paper["url"].endswith(arxiv.removeprefix("arXiv:"))
    assert f"{names}, *{paper['title']}* ({paper['conference']['name']}, {arxiv.replace(':', ' ')})" in readme
    assert str(paper["year"]) in paper["conference"]["name"]


def test_everything_agrees_on_title_licence_author_words_and_version(citation, pyproject):
    zenodo, project = json.loads(text(".zenodo.json")), pyproject["project"]
    assert zenodo["title"] == citation["title"]
    assert zenodo["description"] == citation["abstract"]
    assert zenodo["license"] == citation["license"] == project["license"] == text("LICENSE").split()[0]
    (holder,) = re.findall(r"Copyright \(c\) \d+ (.+)", text("LICENSE"))
    assert zenodo["creators"] == citation["authors"] == project["authors"] == [{"name": holder}]
    assert zenodo["keywords"] == citation["keywords"] == project["keywords"]
    assert zenodo["related_identifiers"][0]["identifier"] == citation["references"][0]["identifiers"][0]["value"]
    assert zenodo["version"] == citation["version"] == pyproject["tool"]["setuptools_scm"]["fallback_version"]
    assert "version" not in project


def test_the_changelog_has_a_part_for_what_is_to_come_and_its_last_release_is_the_version(citation):
    versions = re.findall(r"^## \[([^\]]+)\](?: - \d{4}-\d{2}-\d{2})?$", text("CHANGELOG.md"), re.MULTILINE)
    kinds = set(re.findall(r"^### (\w+)$", text("CHANGELOG.md"), re.MULTILINE))
    assert versions[0] == "Unreleased"
    assert versions[1:2] in ([], [citation["version"]])
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert len(re.findall(r"^## ", text("CHANGELOG.md"), re.MULTILINE)) == len(versions)


def test_a_tagged_commit_is_of_the_version_that_is_cited(citation):
    asked = ["git", "tag", "--points-at", "HEAD", "v[0-9]*"]
    tags = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=False).stdout.split()
    assert tags in ([], [f"v{citation['version']}"])


def version(folder: Path) -> str:
    done = subprocess.run([sys.executable, "-m", "setuptools_scm"], cwd=folder, capture_output=True, check=True)
    return done.stdout.decode().strip()


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", *WHO, *words], cwd=folder, capture_output=True, check=True)


def test_the_version_is_that_of_the_tag_and_without_git_or_tags_there_still_is_one(tmp_path, pyproject):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    assert version(tmp_path) == pyproject["tool"]["setuptools_scm"]["fallback_version"]
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "--all")
    git(tmp_path, "commit", "--quiet", "--message", "x")
    assert re.fullmatch(r"\d+\.\d+\.\d+\.dev1\+g\w+", version(tmp_path))
    git(tmp_path, "tag", "v7.8.9")
    assert version(tmp_path) == "7.8.9"


def test_what_builds_the_package_is_locked(pyproject):
    names = [re.match(r"[\w-]+", wanted)[0] for wanted in pyproject["build-system"]["requires"]]
    assert {"setuptools", "setuptools-scm"} == set(names)
    assert all(re.search(rf"^{name}==", text("requirements.lock"), re.MULTILINE) for name in names)
