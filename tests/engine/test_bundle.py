"""Bundles of a suite: complete, the same bytes again, and every damage is found."""

import hashlib
import json
import stat
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from mebm.__main__ import main
from mebm.engine import bundle as archive_module
from mebm.engine.bundle import bundle, md5, verify
from mebm.engine.graph import Job
from mebm.errors import DataError


@pytest.fixture
def project(tmp_path) -> tuple[Path, SimpleNamespace]:
    """A folder with results of three jobs and the lock file that records them, and its graph."""
    root = tmp_path / "project"
    files = {
        "results/tables/demo.md": b"| fcd |\n",
        "results/figures/a.svg": b"<svg/>",
        "results/figures/sub/b.png": b"\x89PNG",
        "results/run/checkpoint.pt": b"weights",
        "results/run/log.csv": b"iteration\n",
        "params.yaml": b"train: {}\n",
        "dvc.yaml": b"stages: {}\n",
        "Snakefile": b"rule all:\n",
        "pyproject.toml": b'[project]\nlicense = "MIT"\n',
    }
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    listing = [
        {"md5": md5(files["results/figures/a.svg"]), "relpath": "a.svg"},
        {"md5": md5(files["results/figures/sub/b.png"]), "relpath": "sub/b.png"},
    ]
    outs = {
        "tables@demo": {"results/tables/demo.md": md5(files["results/tables/demo.md"])},
        "figures": {"results/figures": md5(json.dumps(listing, sort_keys=True).encode()) + ".dir"},
        "train@run": {name: md5(files[name]) for name in ("results/run/checkpoint.pt", "results/run/log.csv")},
    }
    lock = {
        name: {"cmd": "x", "outs": [{"path": path, "md5": value} for path, value in of.items()]}
        for name, of in outs.items()
    }
    lock["params"] = {"cmd": "x", "deps": [{"path": "params.yaml", "md5": md5(files["params.yaml"])}]}
    lock["tables@other"] = {"cmd": "x", "outs": [{"path": "results/tables/other.md", "md5": md5(b"of another suite")}]}
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": lock}))
    jobs = {name: Job(name, name.split("@")[0], "", "", (), tuple(of)) for name, of in {**outs, "params": {}}.items()}
    return root, SimpleNamespace(jobs=jobs)


ENVIRONMENT = {"python": "3.11.9", "packages": {"snakemake": "9.27.1", "dvc": "3.67.1"}, "date": "2026-11-28"}


@pytest.fixture
def made(project, tmp_path) -> Path:
    path = tmp_path / "demo.zip"
    bundle(*project, "demo", ENVIRONMENT, path)
    return path


def test_a_bundle_holds_what_a_supplement_needs_and_no_weights(made):
    with zipfile.ZipFile(made) as archive:
        names = set(archive.namelist())
    assert names == {
        *(
            "SHA256SUMS",
            "environment.json",
            "ro-crate-metadata.json",
            "Snakefile",
            "pyproject.toml",
            "params.yaml",
            "dvc.yaml",
            "dvc.lock",
            "results/tables/demo.md",
        ),
        *("results/figures/a.svg", "results/figures/sub/b.png", "results/run/log.csv"),
    }
    confirmed = ["results/figures", "results/tables/demo.md", "results/run/log.csv"]
    files, found, outside = verify(made)
    assert (files, sorted(found), outside) == (12, sorted(confirmed), ["results/run/checkpoint.pt"])


def test_equal_results_give_equal_bytes(project, made, tmp_path):
    root, graph = project
    (root / "results" / "tables" / "demo.md").touch()
    lock = yaml.safe_load((root / "dvc.lock").read_text())["stages"]  # DVC adds jobs as they end
    (root / "dvc.lock").write_text(yaml.safe_dump({"stages": dict(reversed(lock.items()))}, sort_keys=False))
    bundle(root, graph, "demo", ENVIRONMENT, tmp_path / "again.zip")
    assert (tmp_path / "again.zip").read_bytes() == made.read_bytes()


@pytest.mark.parametrize("name", ["results/figures/c.svg", "results/tables/demo.md", "params.yaml"])
def test_what_would_not_be_confirmed_is_not_bundled(project, tmp_path, name):
    root, graph = project
    (root / name).write_bytes(b"of another edit")
    with pytest.raises(DataError, match=r"not what .*; the suite is not up to date, run `snakemake` first"):
        bundle(root, graph, "smoke", ENVIRONMENT, tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()


def test_an_incomplete_suite_is_refused_and_nothing_written(project, tmp_path):
    root, graph = project
    (root / "results" / "tables" / "demo.md").unlink()
    with pytest.raises(DataError, match=r"results/tables/demo\.md: no such file, so the suite is not complete"):
        bundle(root, graph, "demo", ENVIRONMENT, tmp_path / "no.zip")
    assert not (tmp_path / "no.zip").exists()


def rewritten(path: Path, change: dict[str, bytes | None], sums: bool = False) -> Path:
    """The bundle with files replaced, added, or left out (None); sums: with checksums that agree."""
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()} | change
    contents = {name: content for name, content in contents.items() if content is not None}
    if sums:
        of = {name: content for name, content in contents.items() if name != "SHA256SUMS"}
        contents["SHA256SUMS"] = "".join(f"{hashlib.sha256(c).hexdigest()}  {n}\n" for n, c in of.items()).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return path


OUTSIDE = ("../x", "results/../../x", "/etc/passwd", "C:/x", "..\\x", "a/./b", "results//x", "folder/")


@pytest.mark.parametrize(
    ("change", "sums", "message"),
    [
        ({"results/tables/demo.md": b"better"}, False, "results/tables/demo.md is not what SHA256SUMS says"),
        ({"results/tables/demo.md": b"better"}, True, "results/tables/demo.md is not what dvc.lock says was made"),
        ({"results/figures/a.svg": b"<svg>"}, True, "results/figures is not what dvc.lock says was made"),
        ({"results/tables/demo.md": None}, False, "lacks results/tables/demo.md, which SHA256SUMS lists"),
        ({"extra.txt": b""}, False, "holds extra.txt, which SHA256SUMS does not list"),
        ({"params.yaml": b"train: {lr: 1}"}, True, "params.yaml is not what the results were made from"),
        ({"results/tables/demo.md": None}, True, "lacks results/tables/demo.md, which dvc.lock says was made"),
        ({"results/tables/fake.md": b"best"}, True, "holds results/tables/fake.md, which no job in dvc.lock made"),
        ({"results/tables/demo.md/x": b""}, True, "results/tables/demo.md is not what dvc.lock says was made"),
        ({"SHA256SUMS": None}, False, "is not a bundle of a suite"),
        ({"dvc.lock": b"stages: {params: {outs: [{path: a, md5: 1}]}}"}, True, "is not a bundle of a suite"),
        ({"dvc.lock": b"["}, True, "is not a bundle of a suite"),
        ({"dvc.lock": b"[" * 100_000}, True, "is not a bundle of a suite"),
        ({"dvc.lock": b"\xff"}, True, "is not a bundle of a suite"),
        *(({name: b""}, True, f"names {name!r}, which lies outside the project") for name in OUTSIDE),
        ({"a\x1b[2J": b""}, True, "names 'a\\x1b[2J', which lies outside the project"),
        (
            {"dvc.lock": b"stages: {params: {deps: [{path: params.yaml, md5: a}], outs: [{path: ../../x, md5: a}]}}"},
            True,
            "names '../../x', which lies outside the project",
        ),
    ],
)
def test_damage_is_found_and_named(made, capsys, change, sums, message):
    assert main(["verify", str(rewritten(made, change, sums))]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1


def test_a_link_in_a_bundle_is_refused(made, capsys):
    with zipfile.ZipFile(made, "a") as archive:
        entry = zipfile.ZipInfo("results/link")
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    assert main(["verify", str(made)]) == 1
    message = "results/link is not a regular file, such as a link; do not unpack it"
    assert capsys.readouterr().err == f"error: {made}: {message}\n"


def test_a_bundle_that_would_unpack_without_end(made, project, tmp_path, capsys, monkeypatch):
    rewritten(made, {"results/zeros.csv": bytes(10**6)}, True)
    monkeypatch.setattr(archive_module, "LARGEST", 10**5)
    assert main(["verify", str(made)]) == 1
    error = capsys.readouterr().err
    assert f"{made}: would unpack to 1" in error
    assert error.count("\n") == 1
    (project[0] / "results" / "tables" / "demo.md").write_bytes(bytes(10**6))
    with pytest.raises(DataError, match="more than the 100000 that `verify` reads"):
        bundle(*project, "demo", ENVIRONMENT, tmp_path / "large.zip")
    assert not (tmp_path / "large.zip").exists()


@pytest.mark.parametrize("content", [b"my thesis", b"PK\x03\x04", None])
def test_only_a_bundle_is_replaced_by_one(project, made, tmp_path, content):
    bundle(*project, "demo", ENVIRONMENT | {"python": "3.12.1"}, made)  # over the one before
    path = tmp_path / "thesis.zip"
    if content is None:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("chapter.txt", "one")
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"thesis\.zip: already exists and is not a bundle"):
        bundle(*project, "demo", ENVIRONMENT, path)
    assert path.read_bytes() == content


def test_files_that_are_no_bundle_are_named(made, tmp_path, capsys):
    made.write_bytes(made.read_bytes()[:200])
    assert main(["verify", str(made)]) == 1
    assert "is not a readable bundle" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none.zip")]) == 1
    assert "no such file" in capsys.readouterr().err
    assert main(["verify", str(tmp_path)]) == 1
    assert f"{tmp_path}: is a folder, expected the bundle that" in capsys.readouterr().err


def test_flipped_bits_end_in_one_line(made, tmp_path, capsys):
    content = made.read_bytes()
    with zipfile.ZipFile(made) as archive:
        entry = archive.getinfo("SHA256SUMS")  # no part of which repeats, so that every bit counts
    start = entry.header_offset + 30 + len(entry.filename)
    for at in range(start, start + entry.compress_size, 7):
        made.write_bytes(content[:at] + bytes([content[at] ^ 0x55]) + content[at + 1 :])
        assert main(["verify", str(made)]) == 1
        assert capsys.readouterr().err.count("\n") == 1


def test_a_lock_file_in_a_merge_is_named(project, tmp_path):
    root, graph = project
    with open(root / "dvc.lock", "a") as file:
        file.write("<<<<<<< ours\n")
    with pytest.raises(DataError, match=r"dvc\.lock: holds the conflict of a merge"):
        bundle(root, graph, "demo", ENVIRONMENT, tmp_path / "no.zip")


def test_the_command_says_what_it_confirmed(made, capsys):
    assert main(["verify", str(made)]) == 0
    said = capsys.readouterr().out
    assert "12 files are whole; 3 outputs are what dvc.lock recorded\n1 more" in said
    assert said.endswith("  results/run/checkpoint.pt\n")
