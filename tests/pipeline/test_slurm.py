"""The pipeline through a real Slurm of one node, with what can happen to its jobs: tests/slurm.py."""

import pytest
import slurm
import yaml
from smoke import ROOT

from mebm.engine.graph import Graph
from mebm.settings.suite import load_params


@pytest.mark.parametrize("name", ["slurm", "local", "kubernetes"])
def test_profiles_keep_the_default_one_and_name_real_stages(name):
    default, profile = (yaml.safe_load((ROOT / "profiles" / n / "config.yaml").read_text()) for n in ("default", name))
    kept = {key: value for key, value in default.items() if key != "cores"}
    assert {key: profile[key] for key in kept} == kept
    stages = set(Graph(ROOT / "dvc.yaml", load_params(ROOT / "params.yaml")).stages)
    assert set(profile["set-resources"]) <= stages
    assert "gpu" not in profile["set-resources"].get("train", {})  # compute.devices, from the Snakefile
    if "jobs" in profile:  # on a cluster the stage `params` takes all slots, to run alone
        slots = next(int(entry.removeprefix("slots=")) for entry in profile["resources"])
        assert profile["set-resources"]["params"]["slots"] == slots > profile["jobs"]


def test_another_slurm_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "CONFIG", tmp_path)
    (tmp_path / "slurm.conf").write_text("ClusterName=real\n")
    assert slurm.foreign() == f"{tmp_path}/slurm.conf belongs to another Slurm; it is left alone"
    (tmp_path / "slurm.conf").write_text(f"{slurm.MARK}ClusterName=mebm\n")
    assert slurm.foreign() is None or "slurm.conf" not in slurm.foreign()


@pytest.mark.slow
@pytest.mark.wide
@pytest.mark.skipif(slurm.missing() is not None, reason=str(slurm.missing()))
def test_interrupted_training_on_slurm_ends_in_the_bytes_of_a_local_run(tmp_path):
    lines: list[str] = []
    content = slurm.small_params()
    content["suite"]["analysed"] = {}
    slurm.through_slurm(tmp_path / "run", content, lines.append)
    assert sum("goes on from iteration" in line for line in lines) == 4
