"""One truth about what is stale under both engines: tables are those of params.yaml, and nothing trains in vain."""

import json
import re
import shutil
from pathlib import Path

import pytest
import smoke
import yaml
from edits import DECISIVE, HARMLESS
from engines import digests, planned, run, stale, write_params

pytestmark = pytest.mark.slow
OTHER_VALUE = "runs.mjem.train.n_steps=1"


@pytest.fixture
def folder(finished, tmp_path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(finished, tmp_path / "project", symlinks=True))


@pytest.fixture(scope="session")
def edited(finished, made_once) -> Path:
    """A copy of it in which DVC has run after a change of a parameter."""

    def make(copy: Path) -> None:
        shutil.copytree(finished, copy, symlinks=True)
        set_value(copy)
        assert {"params", "train@mjem", "tables@demo"} <= planned(copy)
        assert trained(run(copy, "dvc", "repro")) == {"mjem"}

    return made_once("edited", make)


@pytest.fixture
def other(edited) -> dict[str, bytes]:
    """The tables of the other value."""
    return tables(edited)


@pytest.fixture
def edited_folder(edited, tmp_path) -> Path:
    """A copy of the edited project."""
    return Path(shutil.copytree(edited, tmp_path / "edited", symlinks=True))


def tables(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "results" / "tables").iterdir())}


def trained(text: str) -> set[str]:
    """Runs that an engine's output says were trained."""
    return set(re.findall(r"Running stage 'train@(\w+)'", text))


def set_value(folder: Path) -> None:
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["runs"] = {"mjem": {"train": {"n_steps": 1}}}
    write_params(folder, content)


def take_back(folder: Path) -> None:
    run(folder, "git", "checkout", "--quiet", "params.yaml")


def assert_done(folder: Path, expected: dict[str, bytes]) -> None:
    """Tables are the expected ones, and neither engine has anything to do."""
    assert tables(folder) == expected
    assert planned(folder) == set()
    assert stale(folder) == set()


@pytest.mark.more
def test_either_engine_sees_what_the_other_left(finished, edited_folder, other):
    folder, first = edited_folder, tables(finished)
    assert first != other
    assert_done(folder, other)
    take_back(folder)  # Snakemake's own last run was with this file
    assert {"params", "train@mjem", "sample@mjem", "tables@demo"} <= planned(folder)
    assert trained(run(folder, "snakemake")) == set()  # DVC's cache has it
    assert_done(folder, first)
    # from here on both are in the cache, so nothing trains whatever the order
    assert trained(run(folder, "snakemake", "--config", f"set={OTHER_VALUE}")) == set()
    assert_done(folder, other)
    run(folder, "git", "checkout", "--quiet", "params.yaml", "dvc.lock")
    run(folder, "dvc", "checkout")
    assert_done(folder, first)


@pytest.mark.more
def test_either_engine_sees_what_an_experiment_left(finished, edited_folder, other):
    folder, first = edited_folder, tables(finished)
    run(folder, "git", "checkout", "--quiet", "params.yaml", "dvc.lock")
    run(folder, "dvc", "checkout")
    text = run(folder, "dvc", "exp", "run", "--name", "trial", "-S", f"++{OTHER_VALUE}")
    assert_done(folder, other)
    take_back(folder)
    text += run(folder, "snakemake")
    assert_done(folder, first)
    run(folder, "dvc", "exp", "apply", "trial")
    assert_done(folder, other)
    take_back(folder)
    text += run(folder, "snakemake")
    assert_done(folder, first)
    assert trained(text) == set()


@pytest.mark.more
def test_other_profiles_hold_the_same_stale(edited_folder, tmp_path):
    folder = edited_folder
    take_back(folder)
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.yaml").write_text("rerun-triggers: [mtime, params, code, input]\nmax-checksum-file-size: 1000000\n")
    expected = planned(folder)
    assert "train@mjem" in expected
    for words in (
        ("--profile", str(own)),
        ("--workflow-profile", "profiles/local"),
        ("--workflow-profile", "none", "--cores", "1"),
        ("--rerun-triggers", "code", "input", "--"),
    ):
        assert planned(folder, options=words) == expected, words
    run(folder, "snakemake", "--workflow-profile", "profiles/local")
    for words in (("--profile", str(own)), ("--rerun-triggers", "code", "params", "input", "--")):
        assert planned(folder, options=words) == set(), words


@pytest.mark.wide
def test_suites_change_and_change_back_under_both_engines(folder):
    first = tables(folder)
    content = smoke.small_params()
    content["suite"] = smoke.suite("second", {"digits": {}}, {"only": {"method": "M-EBM", "dataset": "digits"}})
    for there, back in ((("dvc", "repro"), ("snakemake",)), (("snakemake",), ("dvc", "repro"))):
        write_params(folder, content)
        run(folder, *there)
        second = tables(folder)
        assert b"M-JEM" not in second["demo.md"]
        assert stale(folder) == set()
        assert planned(folder) == set()
        take_back(folder)
        text = run(folder, *back)
        assert trained(text) == set()
        assert {name: content for name, content in tables(folder).items() if name in first} == first
        assert stale(folder) == set()
        assert planned(folder) == set()


@pytest.mark.more
def test_forced_jobs_are_computed_anew(folder):
    def started(*words: str) -> set[str]:
        text = run(folder, "snakemake", *words)
        return set(re.findall(r"Running stage '([\w@]+)'", text))

    assert started("--forcerun", "accuracy") == {"accuracy@mebm", "accuracy@mjem"}  # what follows came out the same
    assert started("-R", "results/mjem/quality.json") == {"quality@mjem"}
    assert started("--force", "results/tables/demo.md") == {"tables@demo"}
    before = tables(folder)
    assert "train@mebm" in started("--forceall", "results/mebm/train/checkpoint.pt")
    assert trained(run(folder, "snakemake")) == set()  # the summary and the page take the new training's hours
    assert_done(folder, before)


@pytest.mark.more
def test_leftovers_of_trial_runs_enter_no_version(folder, tmp_path):
    first = digests(folder)
    content = yaml.safe_load((folder / "params.yaml").read_text())
    trial = {"method": "trial", "dataset": "digits", "train": {"n_steps": 1}}
    content["suite"]["trained"]["trial"] = trial
    write_params(folder, content)
    run(folder, "snakemake")
    assert b"trial" in tables(folder)["demo.md"]
    run(folder, "git", "checkout", "--quiet", "params.yaml", "dvc.lock")
    run(folder, "dvc", "checkout")
    for engine in (("dvc", "repro"), ("snakemake",)):
        assert trained(run(folder, *engine)) == set()
    assert (folder / "results" / "trial").exists()  # nobody asked to remove it
    run(folder, "git", "commit", "--quiet", "--allow-empty", "--all", "--message", "again")
    run(folder, "dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    run(folder, "dvc", "push")
    run(folder, "git", "clone", "--quiet", str(folder), str(tmp_path / "clone"))
    run(tmp_path / "clone", "dvc", "remote", "add", "--local", "--default", "store", str(tmp_path / "store"))
    planned(tmp_path / "clone")  # writes nothing that a pull could refuse to overwrite
    run(tmp_path / "clone", "dvc", "pull")
    assert_done(tmp_path / "clone", tables(folder))
    assert digests(tmp_path / "clone") == first


@pytest.mark.more
def test_only_what_was_asked_for_is_refused_on_a_cpu(project):
    content = smoke.small_params()
    content["compute"]["cpu_hours"] = 1e-9
    refused = project("refused", content)
    for command, status in ((("snakemake",), 1), (("dvc", "repro"), 255), (("dvc", "repro", "tables@demo"), 255)):
        text = run(refused, *command, status=status)
        assert "mebm, mjem: more than compute.cpu_hours (1e-09) on this CPU" in text, command
        assert not list((refused / "data").rglob("*.npz")), command
    run(refused, "snakemake", "data/digits/train.npz")
    run(refused, "dvc", "repro", "start@smoke")
    assert (refused / "results" / "tables" / "start_smoke.md").is_file()
    run(refused, "snakemake", "results/tables/start_smoke.md")
    text = run(refused, "snakemake", status=1)
    assert "nothing was started" in text
    assert not list((refused / "logs").glob("train.*"))


def test_harmless_edits_train_under_no_engine_and_decisive_ones_under_both(folder):
    for edit in HARMLESS.values():
        edit(folder)
    names = planned(folder)
    assert "params" in names
    assert {name.split("@")[0] for name in names} <= {"params", "curves", "inventory", "report"}
    copy = Path(shutil.copytree(folder, folder.with_name("copy"), symlinks=True))
    text = run(folder, "snakemake") + run(copy, "dvc", "repro")
    assert set(re.findall(r"Running stage '(\w+)", text)) <= {"params", "curves", "inventory", "report"}
    take_back(folder)  # two threads, which here would wait for each other
    for engine, kind in (
        (("snakemake", "results/mjem/train/checkpoint.pt"), "an operator"),
        (("dvc", "repro", "train@mjem"), "train.lr"),
    ):
        DECISIVE[kind](folder)
        assert {"train@mebm", "train@mjem"} <= planned(folder)
        assert trained(run(folder, *engine)) == {"mjem"}, kind


@pytest.mark.more
def test_a_dry_run_says_why(folder):
    DECISIVE["an operator"](folder)
    set_value(folder)
    said = run(folder, "snakemake", "-n")
    assert "train@mjem: train.n_steps 2 -> 1" in said
    assert "train@mebm, train@mjem: mebm/method/loss.py has changed" in said
    assert "from its cache" not in said
    run(folder, "git", "checkout", "--quiet", "mebm")
    run(folder, "dvc", "repro", "train@mjem")
    take_back(folder)
    said = run(folder, "snakemake", "-n")
    assert "train@mjem: train.n_steps 1 -> 2; DVC has this result and brings it back from its cache" in said


def test_provenance_stands_beside_results(folder):
    found = json.loads((folder / "results" / "mjem" / "train" / "provenance.json").read_text())
    assert found["device"] == "cpu"
    assert found["cpu_threads"] == 1
    assert (
        json.loads((folder / "results" / "mjem" / "quality.json").read_text())["full"]["provenance"]["device"] == "cpu"
    )


@pytest.mark.wide
def test_a_planted_lock_file_does_not_pass_for_results(finished, project):
    """The same sources beside the lock file of a run, as a clone of a repository that holds one would have."""
    clone = project("clone", smoke.small_params())
    shutil.copy(finished / "dvc.lock", clone / "dvc.lock")
    run(clone, "snakemake", "results/mjem/accuracy.json")
    assert (clone / "results/mjem/accuracy.json").read_bytes() == (finished / "results/mjem/accuracy.json").read_bytes()
    assert (clone / "results" / "mjem" / "train" / "checkpoint.pt").is_file()


@pytest.mark.more
def test_a_worktree_says_how_to_share_the_cache(folder, tmp_path):
    run(folder, "git", "worktree", "add", "--quiet", str(tmp_path / "second"))
    said = run(tmp_path / "second", "snakemake", "-n")
    share = f"dvc cache dir --local {folder / '.dvc' / 'cache'}"
    assert f"note: this worktree has no cache; `{share}` shares that of the first" in said
    run(tmp_path / "second", *share.split())
    run(tmp_path / "second", "dvc", "checkout")
    assert tables(tmp_path / "second") == tables(folder)
    assert planned(tmp_path / "second") == set()
