"""Versions of results under both engines: shared through remotes, overridden, queued, compared, bundled."""

import re
import shutil
from pathlib import Path

import pytest
from engines import WHO, digests, planned, run, stale

from mebm.settings.editing import with_values

pytestmark = pytest.mark.slow


def commit(folder: Path, message: str) -> None:
    run(folder, "git", "add", "--all")
    run(folder, "git", *WHO, "commit", "--quiet", "--message", message)


@pytest.fixture
def published(finished) -> Path:
    """A project whose results are committed."""
    return finished


@pytest.fixture
def project(published, tmp_path) -> Path:
    """A copy of it, with a cache of its own."""
    return Path(shutil.copytree(published, tmp_path / "project", symlinks=True))


def clone(source: Path, target: Path) -> Path:
    run(source, "git", "clone", "--quiet", str(source), str(target))
    return target


def add_remote(folder: Path, url: str, **options: str) -> None:
    run(folder, "dvc", "remote", "add", "--local", "--default", "store", url)
    for key, value in options.items():
        run(folder, "dvc", "remote", "modify", "--local", "store", key, value)


def nothing_to_do(folder: Path) -> bool:
    return planned(folder) == set() and stale(folder) == set()


def test_a_clone_pulls_from_a_folder_and_has_nothing_to_do(published, tmp_path):
    store = tmp_path / "store"
    sharer = Path(shutil.copytree(published, tmp_path / "sharer", symlinks=True))
    add_remote(sharer, str(store))
    run(sharer, "dvc", "push")
    user = clone(sharer, tmp_path / "user")
    add_remote(user, str(store))
    run(user, "dvc", "pull", "tables@demo")
    assert {path.name for path in user.glob("results/**/*") if path.is_file()} == {"demo.md", "demo.csv", "demo.tex"}
    run(user, "dvc", "pull")
    assert nothing_to_do(user)
    assert digests(user) == digests(published)
    run(user, "snakemake")
    assert nothing_to_do(user)
    assert not list((user / "logs").glob("train.*.log"))


@pytest.mark.wide
def test_a_clone_pulls_from_s3_and_has_nothing_to_do(project, tmp_path, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    server = pytest.importorskip("moto.server").ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        access = {"access_key_id": "key", "secret_access_key": "secret", "region": "us-east-1"}
        access["endpointurl"] = f"http://{host}:{port}"
        boto3.client(
            "s3",
            endpoint_url=access["endpointurl"],
            aws_access_key_id="key",
            aws_secret_access_key="secret",
            region_name="us-east-1",
        ).create_bucket(Bucket="results")
        add_remote(project, "s3://results/mebm", **access)
        run(project, "dvc", "push")
        user = clone(project, tmp_path / "user")
        add_remote(user, "s3://results/mebm", **access)
        run(user, "dvc", "pull")
        assert nothing_to_do(user)
        # and where the cache is gone, a version is compared from the remote
        shutil.rmtree(user / ".dvc" / "cache")
        text = run(user, "python", "-m", "mebm", "compare", "HEAD", "workspace")
        assert "note:" not in text
        assert text.count("same") >= 4
    finally:
        server.stop()


@pytest.mark.more
def test_a_value_on_snakemakes_command_line_reaches_the_job_and_its_record(project):
    override = ("--config", "set=runs.mjem.train.n_steps=1")
    text = (project / "params.yaml").read_text()
    assert "train" in run(project, "snakemake", "-n", *override)
    assert (project / "params.yaml").read_text() == text  # a dry run writes nothing
    assert stale(project) == set()
    assert nothing_to_do(project)
    both = "set=[runs.mjem.compute.cpu_hours=1e-9, runs.mjem.train.n_steps=3]"
    refused = run(project, "snakemake", "--config", both, status=1)
    assert "mjem: more than compute.cpu_hours (1e-09)" in refused
    assert (project / "params.yaml").read_text() == text
    assert nothing_to_do(project)
    run(project, "snakemake", *override)
    assert "n_steps: 1" in (project / "results" / "params" / "train.mjem.yaml").read_text()
    assert "n_steps: 2" in (project / "results" / "params" / "train.mebm.yaml").read_text()
    assert nothing_to_do(project)
    shown = run(project, "python", "-m", "mebm", "compare", "HEAD")
    assert re.search(r"train\.n_steps +2 +1 +mjem", shown)
    error = run(project, "snakemake", "--config", "set=runs.mjem.train.n_steps=-1", status=1)
    profile, line = error.splitlines()
    assert profile.startswith("Using workflow specific profile")
    assert line.startswith("error: params.yaml: runs.mjem.train.n_steps: is -1")
    assert nothing_to_do(project)
    assert "--config sett: unknown" in run(project, "snakemake", "--config", "sett=1", status=1)


@pytest.mark.wide
def test_queued_experiments_run_and_failed_ones_stay_visible(project):
    run(project, "dvc", "exp", "run", "--queue", "--name", "one", "-S", "++runs.mjem.train.n_steps=1")
    run(project, "dvc", "exp", "run", "--queue", "--name", "wrong", "-S", "++runs.mjem.train.n_steps=-1")
    run(project, "dvc", "queue", "start", "--jobs", "2")
    log = run(project, "dvc", "queue", "logs", "--follow", "one")
    run(project, "dvc", "queue", "logs", "--follow", "wrong")
    table = run(project, "dvc", "exp", "show", "--csv", "--only-changed")
    lines = {name: line for line in table.splitlines() for name in ("one", "wrong") if f",{name}," in f",{line},"}
    head = table.splitlines()[0].split(",")
    assert "Success" in lines["one"], log
    assert "Failed" in lines["wrong"]
    assert {"mjem.fcd", "mjem.accuracy", "runs.mjem.train.n_steps"} <= set(head)
    assert "mebm.fcd" not in head  # it did not change
    assert "runs.mjem.train.n_steps: is -1" in run(project, "dvc", "queue", "logs", "wrong")
    shown = run(project, "python", "-m", "mebm", "compare", "HEAD", "one")
    assert re.search(r"train\.n_steps +2 +1 +mjem", shown)
    assert nothing_to_do(project)  # the workspace was not touched


@pytest.mark.more
def test_a_suite_is_bundled_and_verified(project):
    run(project, "python", "-m", "mebm", "archive")
    assert "files are whole" in run(project, "python", "-m", "mebm", "verify", "results/smoke.zip")
    (project / "results" / "tables" / "demo.md").write_text("better\n")
    error = run(project, "python", "-m", "mebm", "archive", "--out", "no.zip", status=1)
    assert "tables@demo, report@smoke: not up to date" in error
    assert not (project / "no.zip").exists()


@pytest.mark.more
def test_two_branches_that_each_trained_unite_without_training(project, tmp_path):
    """Also in a clone that has only a remote."""
    add_remote(project, str(tmp_path / "store"))
    main = run(project, "git", "branch", "--show-current").strip()
    for branch, name in (("one", "mjem"), ("two", "mebm")):
        run(project, "git", "checkout", "--quiet", "-b", branch, main)
        run(project, "dvc", "checkout", "--quiet")
        set_param(project, f"runs.{name}.train.n_steps=1")
        run(project, "dvc", "repro", f"summary@{name}")
        commit(project, branch)
    run(project, "dvc", "push", "--all-branches")
    user = clone(project, tmp_path / "user")
    add_remote(user, str(tmp_path / "store"))
    for name in ("one", "two"):
        run(user, "git", "branch", "--quiet", name, f"origin/{name}", status=None)
    run(user, "git", "checkout", "--quiet", "one")
    run(user, "git", *WHO, "merge", "two", status=1)
    for name in ("mjem", "mebm"):
        set_param(user, f"runs.{name}.train.n_steps=1", resolve=True)
    assert "from the other side" in run(user, "python", "-m", "mebm", "unite")
    run(user, "dvc", "pull", "--allow-missing", status=None)
    text = run(user, "snakemake", "results/tables/demo.md")
    assert "Running stage 'train" not in text
    assert {"train@mebm", "train@mjem"} & stale(user) == set()


def set_param(folder: Path, assignment: str, resolve: bool = False) -> None:
    """Set a value in params.yaml; resolve: from our side of a merge."""
    if resolve:
        run(folder, "git", "checkout", "--quiet", "--ours", "params.yaml")
    path = folder / "params.yaml"
    path.write_text(with_values(path.read_text(), [f"++{assignment}"]))
