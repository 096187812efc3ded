"""Snakefile, dvc.yaml and the code agree on the graph; both engines do the same work once."""

import ast
import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from engines import digests, planned, run, stale, write_params
from smoke import ROOT

from mebm.engine import code
from mebm.engine.graph import Graph
from mebm.settings.suite import load_params


@pytest.fixture(scope="module")
def graph() -> Graph:
    return Graph(ROOT / "dvc.yaml", load_params(ROOT / "params.yaml"))


def test_stages_depend_on_their_records(graph):
    settings = load_params(ROOT / "params.yaml")
    files = {f"results/params/{stage}.{name}.yaml" for stage, name in settings.jobs()}
    for job in graph.jobs.values():
        own = {dep for dep in job.deps if dep in files}
        assert own == ({f"results/params/{job.stage}.{job.name}.yaml"} if job.name else set()), job.address
    assert {(job.stage, job.name) for job in graph.jobs.values()} == {*settings.jobs(), ("params", "")}
    assert {"params.yaml", *code.PACKAGES} == set(graph.jobs["params"].deps)


def test_a_folder_of_the_users_own_is_none_into_which_jobs_write(smoke_params, tmp_path):
    """What lies in such a folder beside what jobs make would be taken for a leftover, and removed."""
    entry = {"method": "theirs", "dataset": "digits", "checkpoint": "data/downloads/export"}
    smoke_params["suite"] |= {"compared": {}, "imported": {"theirs": entry}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    found = Graph(ROOT / "dvc.yaml", load_params(tmp_path / "params.yaml"))
    assert "data/downloads/export" in found.jobs["import_checkpoint@theirs"].deps
    assert "data/downloads/export" in found.inputs("import_checkpoint", "theirs")
    assert "data/downloads/export" not in found.folders
    assert {"results/summary", "results/inventory"} <= set(found.folders)
    assert found.folders["data/compared"] == []


def test_only_training_code_retrains():
    found = set(code.of_stage("train"))
    others = ("figures/", "analyses/", "show/", "measure/quality", "measure/metrics", "settings/", "engine/")
    assert not [path for path in found if path.startswith(tuple(f"mebm/{name}" for name in others))]
    wanted = ("loss", "sgld", "buffer", "energy", "wideresnet", "gaussian")
    wanted = (*(f"method/{name}" for name in wanted), "training/loop", "training/checkpoint", "data/batches", "seeds")
    assert {"stages/train.py", *(f"mebm/{name}.py" for name in wanted)} <= found


def test_the_page_does_not_depend_on_training_code():
    found = code.of_stage("report")
    package = "mebm/training/__init__.py"  # empty, beside the module that lists devices
    assert not [path for path in found if path.startswith(("mebm/training/", "mebm/method/")) and path != package]


def test_no_module_is_imported_in_a_way_that_fingerprints_do_not_see():
    paths = [*(ROOT / "mebm").rglob("*.py"), *(ROOT / "stages").glob("*.py")]
    assert ROOT / "mebm" / "registry.py" in paths
    for path in sorted(paths):
        names = {node.id for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Name)}
        by_name = {"import_module"} if path == ROOT / "mebm" / "registry.py" else set()
        assert names & {"import_module", "__import__", "exec", "eval"} == by_name, path


def test_what_decides_no_number_is_there():
    """An entry that a move left behind would say nothing, and its module would make trainings stale."""
    assert [name for name in code.CARRIERS if not (ROOT / name).exists()] == []
    assert all((ROOT / name).is_dir() for name in code.CARRIERS if name.endswith("/"))
    assert all(name.endswith((".py", "/")) for name in code.CARRIERS)


def test_commands_name_their_inputs_and_outputs(graph):
    assert len(graph.jobs) > 20
    for job in graph.jobs.values():
        words = job.cmd.split()
        inputs = [dep for dep in job.deps if not dep.startswith("results/params/")] if job.name else []
        for path in (*inputs, *job.outs):
            assert any(path == word or path.startswith(f"{word}/") for word in words), (job.address, path)


@pytest.mark.parametrize("suite", ["smoke", "paper"])
def test_both_engines_describe_the_same_graph(project, suite):
    folder = project("graph")
    if suite == "paper":  # with an imported checkpoint, which the published suite has none of
        text = (ROOT / "params.yaml").read_text().replace("suite: *demo ", "suite: *paper ")
        content = yaml.safe_load(text)
        run_of_release = {"method": "released", "dataset": "cifar10", "checkpoint": "data/downloads/mjem.pt"}
        content["suite"]["imported"]["released"] = run_of_release
        write_params(folder, content)
        for path in ("data/downloads/mjem.pt",):
            (folder / path).parent.mkdir(parents=True)
            (folder / path).touch()
    graph = Graph(folder / "dvc.yaml", load_params(folder / "params.yaml"))
    script = (
        "import json; from dvc.repo import Repo\n"
        "print(json.dumps({s.addressing: [s.cmd, [d.def_path for d in s.deps if not d.stage.is_callback], "
        "[o.def_path for o in s.outs]] for s in Repo('.').index.stages}))"
    )
    dvc = json.loads(run(folder, sys.executable, "-c", script).splitlines()[-1])
    assert set(dvc) == set(graph.jobs)
    for address, (cmd, deps, outs) in dvc.items():
        job = graph.jobs[address]
        assert (cmd, set(deps), set(outs)) == (job.cmd, set(job.deps), set(job.outs)), address

    text = run(folder, "snakemake", "-n", "--quiet", "host", "--printshellcmds")
    blocks = dict(re.findall(r"^rule \w+:\n((?:    .*\n)+).*?-m mebm.engine.job +(\S+)$", text, re.MULTILINE))
    assert set(blocks.values()) == set(graph.jobs)
    for body, address in blocks.items():
        job = graph.jobs[address]
        listed = {kind: set(re.search(rf"    {kind}: (.*)", body)[1].split(", ")) for kind in ("input", "output")}
        first = {"results/params/all.yaml"} if job.name else set()
        assert listed["input"] == first | set(graph.inputs(job.stage, job.name)), address
        expected = {"results/params/all.yaml"} if job.stage == "params" else set(job.outs)
        assert listed["output"] == expected, address


def test_a_bad_key_stops_both_engines_before_any_work(project):
    folder = project("bad")
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["suite"]["trained"]["mjem"]["train"]["n_stepz"] = 5
    write_params(folder, content)
    for command in (("snakemake", "-n"), ("snakemake",), ("dvc", "repro")):
        text = run(folder, *command, status=255 if command[0] == "dvc" else 1)
        assert "trained.mjem.train.n_stepz: unknown key" in text, command
        assert "Traceback" not in text, command
    assert [path.name for path in (folder / "data").iterdir()] == ["compared"]  # which is in version control
    assert not (folder / "results").exists() or not any((folder / "results").rglob("*.npz"))


def test_git_holds_no_result_that_could_pass_for_done():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    held = run(ROOT, "git", "ls-files", "data", "results", "logs", "dvc.lock").split()
    assert set(held) <= {"data/README.md", "data/compared/.gitkeep", "results/README.md"}


@pytest.mark.slow
def test_whole_chain_under_both_engines(finished, project, smoke_params, tmp_path):
    one = Path(shutil.copytree(finished, tmp_path / "snakemake", symlinks=True))
    write_params(one, smoke_params)
    two = project("dvc", smoke_params)

    # both make every artifact, Snakemake the analyses last, and the same bytes; then neither has anything to do
    run(one, "snakemake")
    run(two, "dvc", "repro")
    made = digests(one)
    assert made == digests(two)
    graph = Graph(one / "dvc.yaml", load_params(one / "params.yaml"))
    assert {out for job in graph.jobs.values() for out in job.outs if Path(out).suffix} <= set(made)
    for folder in (one, two):
        assert planned(folder) == set()
        assert stale(folder) == set()
    assert "Running stage" not in run(one, "dvc", "repro")
    run(two, "snakemake")
    assert digests(one) == digests(two) == made
    assert "fcd" in run(one, "dvc", "metrics", "show")

    # every artifact is in DVC's lock, and its cache brings it back without a stage being run
    locked = yaml.safe_load((one / "dvc.lock").read_text())["stages"]
    assert set(locked) == set(graph.jobs)
    shutil.rmtree(one / "results" / "mjem")
    run(one, "dvc", "checkout")
    assert digests(one) == made


@pytest.mark.wide
@pytest.mark.slow
def test_the_demo_reaches_its_figures(project):
    """The default suite's M-JEM as `make` trains it: what the README promises of it holds."""
    folder = project("demo", yaml.safe_load((ROOT / "params.yaml").read_text()))
    made = [f"results/{name}.json" for name in ("mjem_mnist/quality", "mjem_mnist/accuracy", "baseline/mnist/initial")]
    run(folder, "snakemake", *made)
    results = folder / "results"
    initial = json.loads((results / "baseline" / "mnist" / "initial.json").read_text())
    quality = json.loads((results / "mjem_mnist" / "quality.json").read_text())["full"]
    assert quality["fcd"] <= initial["fcd"] / 5
    assert quality["n_images"] == 500
    assert min(quality["class_shares_of_model"]) >= 0.03
    assert json.loads((results / "mjem_mnist" / "accuracy.json").read_text())["accuracy"] >= 0.97
