"""What another suite left in folders that are read as a whole goes, if DVC can bring it back."""

import shutil
from types import SimpleNamespace

import pytest
import yaml

from mebm.archive import folder_md5, md5
from mebm.strays import remove_strays


@pytest.fixture
def project(tmp_path):
    """A lock file with outputs of one run of the suite and one that it no longer has, all in the cache."""
    files = {
        "results/summary/mine.json": b"1",
        "results/summary/gone.json": b"2",
        "results/analyses/gone/ood/figures/a.svg": b"<svg/>",
        "results/gone/train/checkpoint.pt": b"weights",
        "results/baseline2/train/log.csv": b"a run with a name like a folder's",
    }
    recorded = {name: md5(content) for name, content in files.items() if not name.endswith("svg")}
    recorded["results/analyses/gone/ood/figures"] = folder_md5({"a.svg": b"<svg/>"})
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    for hash_ in recorded.values():
        cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / hash_[:2] / hash_[2:]
        cached.parent.mkdir(parents=True, exist_ok=True)
        cached.touch()
    (tmp_path / ".dvc" / "config").write_text("[core]\nno_scm = true\n")
    outs = [{"path": path, "md5": hash_} for path, hash_ in recorded.items()]
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump({"stages": {"all": {"outs": outs}}}))
    return tmp_path


GRAPH = SimpleNamespace(jobs={"summary@mine": SimpleNamespace(outs=("results/summary/mine.json",))})


def left(root) -> set[str]:
    return {path.relative_to(root).as_posix() for path in (root / "results").rglob("*") if path.is_file()}


def test_leftovers_go_and_what_is_the_suites_or_is_not_collected_stays(project):
    assert set(remove_strays(GRAPH, project)) == {"results/summary/gone.json", "results/analyses/gone/ood/figures"}
    others = {"results/gone/train/checkpoint.pt", "results/baseline2/train/log.csv"}
    assert left(project) == {"results/summary/mine.json", *others}
    assert not (project / "results" / "analyses" / "gone").exists()
    assert remove_strays(GRAPH, project) == []


def test_what_dvc_could_not_bring_back_stays(project):
    (project / "results" / "summary" / "gone.json").write_bytes(b"edited by hand")
    (project / "results" / "analyses" / "gone" / "ood" / "figures" / "mine.svg").touch()
    before = left(project)
    assert remove_strays(GRAPH, project) == []
    shutil.rmtree(project / ".dvc" / "cache")
    (project / "results" / "summary" / "gone.json").write_bytes(b"2")
    assert remove_strays(GRAPH, project) == []
    assert left(project) == before


def test_without_a_lock_file_nothing_goes(project):
    (project / "dvc.lock").unlink()
    assert remove_strays(GRAPH, project) == []


def test_the_cache_may_lie_elsewhere(project):
    (project / ".dvc" / "cache").rename(project / "elsewhere")
    (project / ".dvc" / "config").write_text("[core]\nno_scm = true\n[cache]\ndir = ../elsewhere\n")
    assert "results/summary/gone.json" in remove_strays(GRAPH, project)
