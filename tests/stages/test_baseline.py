"""The initial distribution by classes beside the plain one: scored, drawn and in the table where it is fitted."""

import json
from pathlib import Path

import pytest
import smoke
import torch
import yaml

from mebm.data.archives import save_images
from mebm.data.images import unit_to_bytes
from mebm.measure.features import save_network
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.measure.quality import QualityMeter
from mebm.method.gaussian import load_init
from mebm.seeds import generator_for
from mebm.settings.checks import CLASSWISE, INITIAL
from stages import baseline, gaussian, reference, start


@pytest.fixture(scope="module")
def scored(digits, tmp_path_factory):
    """A function that makes the baselines and the table of initial distributions in a folder of their own."""

    def make(classwise: bool) -> Path:
        folder = tmp_path_factory.mktemp("baseline")
        content = smoke.smoke_params()
        content["gaussian"]["classwise"] = classwise
        (folder / "params.yaml").write_text(yaml.safe_dump(content))
        for name, part in (("train", slice(0, 1000)), ("test", slice(1000, 1200))):
            save_images(folder / f"{name}.npz", digits.images[part].numpy(), digits.labels[part].numpy())
        torch.manual_seed(0)
        save_network(folder / "features.pt", FeatureClassifier(1, 10, 4, 0.95))
        common = ["--params", folder / "params.yaml", "--logs", folder / "logs"]
        of = ["--dataset", "digits", *common]
        files = {name: ["--" + name, folder / f"{name}.npz"] for name in ("train", "test", "gaussian", "reference")}
        features, out = ["--features", folder / "features.pt"], folder / "baseline" / "digits"
        for stage, argv in (
            (gaussian, [*of, *files["train"], "--out", folder / "gaussian.npz"]),
            (reference, [*of, *files["train"], *features, "--out", folder / "reference.npz"]),
            (baseline, [*of, *files["test"], *files["gaussian"], *features, *files["reference"], "--out", out]),
            (start, ["--suite", "smoke", *common, "--baseline", folder / "baseline", "--out", folder / "tables"]),
        ):
            assert stage.main([str(word) for word in argv]) == 0
        return folder

    return make


def test_it_is_scored_as_the_plain_one_is_and_has_a_row_of_its_own(scored):
    folder = scored(True)
    found = {
        name: json.loads((folder / "baseline/digits" / f"{name}.json").read_text()) for name in ("initial", "classwise")
    }
    meter = QualityMeter(folder / "features.pt", folder / "reference.npz", torch.device("cpu"), 500)
    for name, kind in (("initial", "gaussian"), ("classwise", "classwise")):
        init = load_init(kind, folder / "gaussian.npz", meter.shape).to("cpu")
        draws = unit_to_bytes(init.sample(100, generator_for("baseline draws", 0)))
        assert found[name]["fcd"] == meter.measure(draws, 10, 2020)["fcd"]
    assert found["initial"]["fcd"] != found["classwise"]["fcd"]
    pictures = [(folder / "baseline/digits" / f"{name}.png").read_bytes() for name in found]
    assert pictures[0] != pictures[1]
    table = (folder / "tables" / "start_smoke.csv").read_text()
    for method, record in ((INITIAL, found["initial"]), (CLASSWISE, found["classwise"])):
        (line,) = [line for line in table.splitlines() if line.startswith(f"digits,{method},fcd,")]
        assert f",{record['fcd']!r}," in line


def test_where_it_is_not_fitted_it_has_no_number_and_no_row(scored):
    folder = scored(False)
    found = json.loads((folder / "baseline/digits/classwise.json").read_text())
    assert (found["fcd"], found["status"], found["n_images"]) == (None, "not fitted", 0)
    text = (folder / "tables" / "start_smoke.md").read_text()
    assert f"| {INITIAL} |" in text
    assert f"| {CLASSWISE} |" not in text
