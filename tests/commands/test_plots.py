"""DVC's page of curves, with its scripts in it."""

import re
import subprocess
from pathlib import Path

import pytest

from mebm.__main__ import main
from mebm.commands.plots import with_scripts
from mebm.errors import DataError


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A repository with one curve, in two versions."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("[core]\nanalytics = false\n")
    (tmp_path / "dvc.yaml").write_text("plots:\n- curve.csv:\n    x: step\n    y: value\n")
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for value in (0.1357, 0.8642):
        (tmp_path / "curve.csv").write_text(f"step,value\n1,{value}\n2,0.5\n")
        for words in (("init", "--quiet"), ("add", "."), (*who, "commit", "--quiet", "--message", str(value))):
            subprocess.run(["git", *words], check=True)
    return tmp_path


def test_the_page_needs_no_network_and_holds_the_curves(project, capsys):
    assert main(["plots"]) == 0
    assert capsys.readouterr().out == "dvc_plots/index.html\n"
    page = (project / "dvc_plots/index.html").read_text()
    assert not re.search(r"<script[^>]*\ssrc=", page)
    assert all(f"global.{name} = " in page or f"global.{name}=" in page for name in ("vega", "vegaLite", "vegaEmbed"))
    assert "0.8642" in page
    assert "0.1357" not in page


def test_other_versions_stand_beside(project):
    assert main(["plots", "HEAD~1", "--out", "both"]) == 0
    page = (project / "both/index.html").read_text()
    assert "0.8642" in page
    assert "0.1357" in page


def test_another_file_of_that_name_stays(project, capsys):
    (project / "index.html").write_text("the user's own")
    assert main(["plots", "--out", "."]) == 1
    assert capsys.readouterr().err.startswith(
        f"error: {project}/index.html: already exists, and `plots` did not make it"
    )
    assert (project / "index.html").read_text() == "the user's own"
    assert main(["plots"]) == main(["plots"]) == 0  # its own page is replaced


def test_what_cannot_be_drawn_is_one_line(project, capsys):
    assert main(["plots"]) == 0
    capsys.readouterr()
    assert main(["plots", "nothing"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: dvc plots: ")
    assert "nothing" in said
    assert said.count("\n") == 1
    (project / "dvc.yaml").unlink()
    assert main(["plots"]) == 1
    assert capsys.readouterr().err == (
        "error: dvc plots: found no curves; run `snakemake` first, with runs that the suite lists as analysed\n"
    )
    assert (project / "dvc_plots/index.html").is_file()  # the page of before stays, and is not called new


def test_a_script_that_is_not_known_is_named():
    with pytest.raises(DataError, match=r"wants https://x\.org/other\.js, which is not known here"):
        with_scripts('<script src="https://x.org/other.js"></script>')
