"""docs/artifact.md is what `python -m mebm artifact` prints, and what it names is there."""

import re
import shutil
from pathlib import Path

import pytest
from smoke import ROOT

from mebm.engine.graph import Graph
from mebm.errors import DataError
from mebm.settings.suite import parse_params
from mebm.show.artifact import GRIDS, artifact


@pytest.fixture(scope="module")
def page() -> str:
    return artifact(ROOT)


@pytest.fixture
def project(tmp_path) -> Path:
    """The files that the page is made from, in a folder of their own."""
    for name in ("README.md", "params.yaml", "docs/performance.md"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def edited(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_committed_page_is_current(page):
    committed = (ROOT / "docs" / "artifact.md").read_text(encoding="utf-8")
    assert committed == page, "run `python -m mebm artifact > docs/artifact.md`"


def test_figures_are_those_of_the_readme_and_spreads_those_that_were_measured(project):
    edited(project / "README.md", "| mnist | M-JEM | 0.38 |", "| mnist | M-JEM | 0.99 |")
    edited(project / "docs/performance.md", "| M-EBM | 0.50 ± 0.08 |", "| M-EBM | 0.51 ± 0.09 |")
    made = artifact(project)
    assert "| mnist | M-EBM | fcd ↓ | 0.53 | 0.51 ± 0.09 | about eight minutes on two CPU cores |" in made
    assert "| mnist | M-JEM | fcd ↓ | 0.99 | 0.34 ± 0.05 |" in made
    assert "| mnist | M-JEM | precision % ↑ | 83 | 84 ± 2 |" in made
    assert "| mnist | held-out real images | fcd ↓ | 0.20 | – |" in made
    assert "not measured | about eight" not in made


def test_every_published_figure_of_ours_has_a_row_and_every_run_its_hours(page):
    rows = [line for line in page.splitlines() if line.startswith(("| CIFAR", "| CelebA", "| ImageNet"))]
    assert len(rows) == 10
    assert "| CIFAR-10 | M-JEM | FID | release_0.9 | 9.87 | 3 | 9.8 h on an H100 |" in page
    assert "| CIFAR-10 | initial distribution | FID | – | 220.3 | – | no training |" in page
    assert "| `mebm_imagenet32` | M-EBM, K = 5 | ImageNet 32x32 | 61.1 h on an H100 |" in page
    assert "| `mebm_celeba_hq` | M-EBM, K = 10 | CelebA-HQ 128 | not measured |" in page


def test_files_that_are_named_are_made_by_jobs_and_links_lead_somewhere(page):
    made = set()
    for suite in ("demo", "paper"):
        text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("suite: *demo", f"suite: *{suite}")
        graph = Graph(ROOT / "dvc.yaml", parse_params(ROOT / "params.yaml", text))
        made |= {out for job in graph.jobs.values() for out in job.outs}
    words = " ".join(re.findall(r"`((?:snakemake )?results/[^`]+)`", page))
    named = set(re.findall(r"results/[\w/]+\.\w+", words))
    assert "results/mjem_cifar10_s2/quality.json" in named
    assert len(named) > 20
    assert not {name for name in named if not made & {name, *map(str, Path(name).parents)}}
    assert all((ROOT / picture).is_file() for picture in GRIDS)
    for target, _, anchor in (link.partition("#") for link in re.findall(r"\]\(([^)]+)\)", page)):
        path = ROOT / "docs" / target
        assert path.is_file(), target
        heads = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}
        assert not anchor or anchor in slugs, f"{target}#{anchor}"


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("README.md", "| data set | method | fcd ↓", "x", "README.md: has no table"),
        ("README.md", "in about eight minutes", "x", "README.md: does not say how long the demo takes"),
        ("params.yaml", "\nsuite: *demo", "x", "params.yaml: has 0 lines `suite: "),
        (
            *("params.yaml", "{source: cifar100}}\n      imagenet32", "{source: cifar10}}\n      imagenet32"),
            "params.yaml: the suite paper has 2 data sets titled 'CIFAR-10' and 4 runs of M-JEM on them",
        ),
    ],
)
def test_what_it_is_made_from_must_be_there(project, name, old, new, message):
    edited(project / name, old, new)
    with pytest.raises(DataError, match=re.escape(message)):
        artifact(project)
