"""What a trial run left in a folder that a job reads as a whole goes, if DVC can bring it back."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from mebm.engine.hashes import md5
from mebm.engine.strays import remove_strays
from mebm.errors import DataError

FILES = {
    "results/summary/mine.json": b"1",
    "results/summary/gone.json": b"2",
    "results/summary/.snakemake_timestamp": b"",
    "results/mine/analyses/gone/figures/a.svg": b"<svg/>",
    "results/mine/analyses/ood/figures/b.svg": b"<svg>2</svg>",
    "results/gone/train/checkpoint.pt": b"weights",
}
OUTS = ("results/summary/mine.json", "results/mine/analyses/ood/figures")
GRAPH = SimpleNamespace(
    jobs={
        "ood@mine": SimpleNamespace(outs=OUTS, deps=("data/a.npz",)),
        "report@mine": SimpleNamespace(outs=(), deps=("results/summary", "results/mine")),
    },
    folders={"results/summary": [], "results/mine": []},
)


@pytest.fixture
def project(tmp_path) -> Path:
    """Outputs of one run of the suite and one that it does not have, all in DVC's cache."""
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        cached(tmp_path, content).parent.mkdir(parents=True, exist_ok=True)
        cached(tmp_path, content).write_bytes(content)
    (tmp_path / ".dvcignore").write_text(".snakemake_timestamp\n")
    return tmp_path


def cached(root: Path, content: bytes) -> Path:
    return root / ".dvc" / "cache" / "files" / "md5" / md5(content)[:2] / md5(content)[2:]


def left(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in (root / "results").rglob("*") if path.is_file()}


def test_leftovers_go_and_what_is_the_suites_or_is_not_read_stays(project):
    gone = {"results/summary/gone.json", "results/mine/analyses/gone/figures/a.svg"}
    assert remove_strays(GRAPH, "ood@mine", project) == []
    assert set(remove_strays(GRAPH, "report@mine", project)) == gone
    assert left(project) == set(FILES) - gone
    assert not (project / "results" / "mine" / "analyses" / "gone").exists()
    assert remove_strays(GRAPH, "report@mine", project) == []


def test_a_file_that_dvc_could_not_bring_back_is_named_and_nothing_goes(project):
    (project / "results" / "summary" / "gone.json").write_bytes(b"edited by hand")
    with pytest.raises(DataError, match=r"results/summary/gone\.json: no job of this suite makes it"):
        remove_strays(GRAPH, "report@mine", project)
    assert left(project) == set(FILES)


def test_the_cache_may_lie_elsewhere(project):
    (project / ".dvc" / "cache").rename(project / "elsewhere")
    with pytest.raises(DataError):
        remove_strays(GRAPH, "report@mine", project)
    (project / ".dvc" / "config").write_text("[cache]\n    dir = ../elsewhere\n")
    assert "results/summary/gone.json" in remove_strays(GRAPH, "report@mine", project)
