"""Two versions of results: read from git and DVC where they lie, compared, and shown in three forms."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from engines import run
from PIL import Image
from smoke import ROOT

from mebm.__main__ import main
from mebm.engine.code import fingerprint_of
from mebm.engine.versions import Version
from mebm.errors import DataError
from mebm.show.compare import compare, judge, to_html, to_markdown

PIPELINE = """
stages:
  params:
    cmd: mkdir -p results && cp -r made/params results/params
    deps: ["params.yaml", "made/params"]
    outs: ["results/params"]
  train:
    foreach: [one, two]
    do:
      cmd: mkdir -p results/${item}/sample && cp made/${item}.png results/${item}/sample/grid.png
      deps: ["made/${item}.png", "results/params/train.${item}.yaml"]
      outs: ["results/${item}/sample/grid.png"]
  summary:
    foreach: [one, two]
    do:
      cmd: mkdir -p results/summary && cp made/${item}.json results/summary/${item}.json
      deps: ["made/${item}.json", "results/${item}/sample/grid.png"]
      outs: ["results/summary/${item}.json"]
  tables:
    cmd: mkdir -p results/tables && cp made/demo.csv results/tables/demo.csv
    deps: ["made/demo.csv", "results/summary/one.json"]
    outs: ["results/tables/demo.csv"]
"""


def write_version(folder: Path, n_steps: int, fcd: tuple[float, float], accuracy: float, grey: int) -> None:
    """Sources from which the small pipeline makes results: two seeds of one method."""
    made = folder / "made"
    (made / "params").mkdir(parents=True, exist_ok=True)
    row = {"method": "M-JEM", "dataset": "digits"}
    record = {
        **{f"train.{name}": {"train": {"n_steps": n_steps, "lr": 0.1}} for name in ("one", "two")},
        "start.demo": {"runs": {"one": row, "two": row}, "tables": {"digits": 2}},
    }
    (made / "params" / "all.yaml").write_text(yaml.safe_dump(record))
    (folder / "sgld.py").write_text(f"K = {n_steps}\nunchanged = 1\n")
    code = {"sgld.py": fingerprint_of((folder / "sgld.py").read_bytes(), "sgld.py")}
    for name in ("one", "two"):
        (made / "params" / f"train.{name}.yaml").write_text(yaml.safe_dump({"code": code, **record[f"train.{name}"]}))
    (folder / "params.yaml").write_text(f"train: {{n_steps: {n_steps}}}\n")
    for name, value in zip(("one", "two"), fcd, strict=True):
        summary = {"fcd": value, "n_images": 100, "accuracy": accuracy, "loss": None}
        (made / f"{name}.json").write_text(json.dumps(summary))
        Image.new("L", (8, 8), grey if name == "one" else 7).save(made / f"{name}.png")
    (made / "demo.csv").write_text(f"data_set,method,fcd_mean,n_seeds\ndigits,M-JEM,{fcd[0]},2\ndigits,other,1.0,\n")


@pytest.fixture(scope="module")
def versions(tmp_path_factory) -> Path:
    """A project with the tags a and b, whose workspace is at b."""
    folder = tmp_path_factory.mktemp("versions")
    (folder / ".dvc").mkdir()
    shutil.copy(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    (folder / "dvc.yaml").write_text(PIPELINE)
    (folder / ".gitignore").write_text("/results/\n/.dvc/cache\n/.dvc/tmp\n")
    run(folder, "git", "init", "--quiet")
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    for tag, values in (("a", (5, (0.50, 0.52), 0.9, 10)), ("b", (10, (0.40, 0.41), 0.9, 200))):
        write_version(folder, *values)
        run(folder, "dvc", "repro", "--quiet")
        run(folder, "git", "add", "--all")
        run(folder, "git", *who, "commit", "--quiet", "--message", tag)
        run(folder, "git", "tag", tag)
    return folder


@pytest.fixture
def found(versions):
    return compare(Version("a", versions), Version("b", versions))


def rows(found, title: str) -> tuple:
    return next(part for part in found.parts if part.title == title).table.rows


def test_parameters_that_differ(found):
    assert rows(found, "Parameters") == (("train.n_steps", "5", "10", "all"),)


def test_metrics_with_the_seed_spread(found):
    fcd, accuracy = rows(found, "Metrics")
    assert fcd[:3] == ("digits", "M-JEM", "fcd ↓")
    assert fcd[3:6] == ("0.510 ± 0.014 (2)", "0.405 ± 0.007 (2)", "−0.105")
    assert fcd[7] == "beyond, better"
    assert accuracy[2:] == ("accuracy % ↑", "90.00 ± 0.00 (2)", "90.00 ± 0.00 (2)", "0.00", "0.00", "same")


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        ([0.5], [0.4], "one seed"),
        ([0.5], [0.5], "same"),
        ([0.5, 0.6], [0.6, 0.5], "same"),
        ([0.5, 0.6], [0.4], "within"),  # one degree of freedom: t = 12.7
        ([0.50, 0.52, 0.51], [0.60, 0.61, 0.62], "beyond, worse"),
        ([0.50, 0.52, 0.51], [0.51, 0.53, 0.50], "within"),
    ],
)
def test_verdicts(a, b, verdict):
    assert judge("fcd", a, b)[2] == verdict


def test_a_verdict_knows_which_direction_is_better():
    assert judge("accuracy", [90.0, 90.1], [95.0, 95.1])[2] == "beyond, better"
    assert judge("release_0.9.fid", [90.0, 90.1], [95.0, 95.1])[2] == "beyond, worse"


def test_cells_that_differ(found):
    assert rows(found, "Tables") == (("demo", "digits, M-JEM", "fcd_mean", "0.5", "0.4"),)


def test_cells_are_compared_in_full_and_shown_short(versions, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(versions, copy)
    text = "data_set,method,fcd_mean,n_seeds\ndigits,M-JEM,0.40000000001,\ndigits,other,0.123456789,\n"
    (copy / "results" / "tables" / "demo.csv").write_text(text)
    assert rows(compare(Version("b", copy), Version("workspace", copy)), "Tables") == (
        ("demo", "digits, M-JEM", "fcd_mean", "0.4", "0.40000000001"),  # alike in six digits
        ("demo", "digits, M-JEM", "n_seeds", "2", "–"),
        ("demo", "digits, other", "fcd_mean", "1.0", "0.123457"),
    )


def test_jobs_and_the_code_that_they_read(found):
    jobs = dict(rows(found, "Jobs"))
    assert "sgld.py" in jobs["train@one"]
    assert "the outputs are the same" in jobs["train@two"]  # its picture did not change
    assert rows(found, "Code")[-1] == ("sgld.py", "+1 −1", "train")
    assert any("-K = 5" in change.lines and "+K = 10" in change.lines for change in found.changes)


def test_grids_come_from_the_cache_and_the_workspace_is_not_touched(versions, found):
    before = {path: path.stat().st_mtime_ns for path in (versions / "results").rglob("*")}
    grids = {grid.run: grid for grid in compare(Version("a", versions), Version("b", versions)).grids}
    path = "results/one/sample/grid.png"
    assert grids["one"].b == (versions / path).read_bytes() != grids["one"].a
    assert grids["two"].a == grids["two"].b
    assert {path: path.stat().st_mtime_ns for path in (versions / "results").rglob("*")} == before


def test_the_workspace_is_a_version_and_its_edits_are_said(versions, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(versions, copy)
    same = compare(Version("b", copy), Version("workspace", copy))
    assert not any(rows(same, title) for title in ("Parameters", "Tables", "Code", "Jobs"))
    assert {row[7] for row in rows(same, "Metrics")} == {"same"}
    assert same.notes == []
    (parameters,) = (part for part in same.parts if part.title == "Parameters")
    assert parameters.empty == "No parameter differs, of those that the results were made with."
    (copy / "sgld.py").write_text("K = 11\nunchanged = 1\n")
    (copy / "results" / "summary" / "one.json").write_text('{"fcd": 0.1}')
    (copy / "results" / "tables" / "demo.csv").unlink()
    edited = compare(Version("b", copy), Version("workspace", copy))
    assert "another content of sgld.py" in edited.notes[0]
    wrong = "results/summary/one.json, results/tables/demo.csv"
    assert edited.notes[1] == f"workspace: not what dvc.lock records: {wrong}; run `dvc checkout`, or the pipeline"


def test_a_shallow_clone_names_the_cure(versions, tmp_path):
    run(tmp_path, "git", "clone", "--quiet", "--depth", "1", f"file://{versions}", "clone")
    with pytest.raises(DataError, match=r"HEAD~1: .*this clone is shallow, so `git fetch --unshallow` may bring it"):
        Version("HEAD~1", tmp_path / "clone")


def test_what_is_neither_in_the_cache_nor_in_a_remote_is_said(versions, tmp_path):
    copy, store = tmp_path / "copy", tmp_path / "store"
    shutil.copytree(versions, copy)
    run(copy, "dvc", "remote", "add", "--local", "--default", "--quiet", "store", str(store))
    run(copy, "dvc", "push", "--quiet", "--all-tags")
    shutil.rmtree(copy / ".dvc" / "cache")
    from_remote = compare(Version("a", copy), Version("b", copy))
    assert len(from_remote.grids) == 2
    assert from_remote.notes == []
    shutil.rmtree(store)
    shutil.rmtree(copy / ".dvc" / "cache", ignore_errors=True)
    gone = compare(Version("a", copy), Version("workspace", copy))
    assert any(note.startswith("a: neither in DVC's cache nor in a remote") for note in gone.notes)
    assert [grid.a for grid in gone.grids] == [None, None]
    by_title = {part.title: part for part in gone.parts}
    for title in ("Parameters", "Tables"):
        assert by_title[title].empty.startswith("Not known: those of a ("), title
        assert not by_title[title].table.rows
    assert {row[7] for row in by_title["Metrics"].table.rows} == {"not all are here"}
    neither = {part.title: part for part in compare(Version("a", copy), Version("b", copy)).parts}
    assert neither["Metrics"].empty.startswith("Not known: those of a (")


def test_markdown_and_page_hold_it_all(found):
    text = to_markdown(found, {"one": ("one.a.png", "one.b.png"), "two": (None, "two.b.png")})
    assert "| train.n_steps | 5 | 10 | all |" in text
    assert "| one | ![one](one.a.png) | ![one](one.b.png) |" in text
    page = to_html(found)
    assert page.count("data:image/png;base64,") == 4
    assert "beyond, better" in page
    assert "+K = 10" in page
    assert "http" not in page.split("<body>")[1]


def test_the_command_prints_and_writes(versions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(versions)
    assert main(["compare", "a", "b", "--out", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "train.n_steps" in printed
    assert "beyond, better" in printed
    made = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".mebm.")}
    assert made == {"compare.md", "compare.html", "one.a.png", "one.b.png", "two.a.png", "two.b.png"}


def test_files_of_others_in_the_folder_stay(versions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(versions)
    (tmp_path / "one.a.png").write_text("mine")
    assert main(["compare", "a", "b", "--out", str(tmp_path)]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {tmp_path / 'one.a.png'}: already exists")
    assert error.count("\n") == 1
    assert [(path.name, path.read_text()) for path in tmp_path.glob("*.*")] == [("one.a.png", "mine")]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["nowhere", "b"], "nowhere: is not a git revision, tag or DVC experiment here"),
        (["a", "nowhere"], "nowhere: is not a git revision"),
        (["a", ""], ": is not a git revision"),
        (["a:params.yaml", "b"], "a:params.yaml: is not a git revision"),
        (["a^{tree}", "b"], "a^{tree}: is not a git revision"),
        (["empty", "b"], "empty: holds no dvc.lock, so no results are recorded there"),
    ],
)
def test_wrong_versions_end_in_one_line(versions, tmp_path, monkeypatch, capsys, argv, message):
    copy = tmp_path / "copy"
    shutil.copytree(versions, copy)
    run(copy, "git", "checkout", "--quiet", "--orphan", "other")
    run(copy, "git", "rm", "--cached", "--quiet", "dvc.lock")
    run(copy, "git", "-c", "user.name=x", "-c", "user.email=x@example.org", "commit", "--quiet", "--message", "x")
    run(copy, "git", "tag", "empty")
    monkeypatch.chdir(copy)
    assert main(["compare", *argv, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("params/all.yaml", b"a: [1"),
        ("params/all.yaml", b"abc"),
        ("params/all.yaml", b"train.one: 3"),
        ("params/all.yaml", b"start.demo: {runs: {one: {dataset: 3}}}"),
        ("summary/one.json", b"[1]"),
        ("summary/one.json", b'{"fcd": "x"}'),
        ("summary/one.json", b"{"),
        ("tables/demo.csv", b"data set,method,fcd\ndigits,M-JEM,1,2,3\n"),
        ("tables/demo.csv", b"data set,method,fcd\ndigits,M-JEM\n"),
        ("tables/demo.csv", b"\xff\xfe"),
    ],
)
def test_a_damaged_result_is_named_and_nothing_printed(versions, tmp_path, monkeypatch, capsys, file, content):
    copy = tmp_path / "copy"
    shutil.copytree(versions, copy)
    (copy / "results" / file).write_bytes(content)
    monkeypatch.chdir(copy)
    assert main(["compare", "a", "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr()
    assert f"error: workspace: results/{file} cannot be read (" in shown.err
    assert shown.err.count("\n") == 1
    assert shown.out == ""


def test_a_lock_file_that_cannot_be_read_is_named(versions, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(versions, copy)
    (copy / "dvc.lock").write_text("stages: [")
    with pytest.raises(DataError, match=r"workspace: dvc\.lock cannot be read"):
        Version("workspace", copy)
