"""A job that an engine runs takes its values from its record, and refuses one that is damaged or no longer holds."""

from pathlib import Path

import pytest
import yaml

from mebm.engine import records
from mebm.errors import DataError, ParamsError
from mebm.settings.suite import Params, load_params


@pytest.fixture
def params(smoke_params, tmp_path, monkeypatch) -> Params:
    """The smoke parameters with records of all jobs, in the current folder."""
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(smoke_params))
    loaded = load_params("params.yaml")
    records.write(loaded, records.RECORDS)
    return loaded


def test_every_job_is_told_the_same_by_its_record_as_by_the_parameter_file(params):
    jobs = params.jobs()
    assert len({stage for stage, _ in jobs}) > 20
    for stage, name in jobs:
        told, now = records.recorded(params, stage, name), params.resolve(stage, name)
        assert type(told) is type(now)
        assert told == now


def test_where_and_how_fast_a_job_works_comes_from_the_parameter_file(params, smoke_params):
    smoke_params["compute"]["cpu_threads"] = 3
    smoke_params["dataset"]["downloads"] = "elsewhere"
    Path("params.yaml").write_text(yaml.safe_dump(smoke_params))
    now = load_params("params.yaml")
    assert records.recorded(now, "gaussian", "digits").compute.cpu_threads == 3
    assert records.recorded(now, "dataset", "digits").dataset.downloads == "elsewhere"


def test_a_training_whose_record_holds_values_of_compute_is_told_its_own(params, smoke_params):
    smoke_params["train"]["on_divergence"] = "restart"
    Path("params.yaml").write_text(yaml.safe_dump(smoke_params))
    now = load_params("params.yaml")
    records.write(now, records.RECORDS)
    assert "restart_from_every" in Path(records.RECORDS, "train.mjem.yaml").read_text()
    assert records.recorded(now, "train", "mjem") == now.resolve("train", "mjem")


def test_a_key_that_asks_for_nothing_is_in_no_record(params, smoke_params):
    """So that what was made before there was such a key is not stale."""
    before = Path(records.RECORDS, "train.mjem.yaml").read_text()
    assert "keep_every" not in before
    assert "validation_images" not in before
    assert records.recorded(params, "train", "mjem").train.keep_every == 0
    smoke_params["train"]["keep_every"] = 2
    Path("params.yaml").write_text(yaml.safe_dump(smoke_params))
    now = load_params("params.yaml")
    records.write(now, records.RECORDS)
    assert "  keep_every: 2\n" in Path(records.RECORDS, "train.mjem.yaml").read_text()
    assert records.recorded(now, "train", "mjem") == now.resolve("train", "mjem")
    assert Path(records.RECORDS, "train.mjem.yaml").read_text().replace("  keep_every: 2\n", "") == before


def test_a_value_that_is_null_stays_in_records(smoke_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    smoke_params["train"] |= {"grad_bound": None}
    entry = {"method": "M-JEM (release)", "dataset": "digits", "checkpoint": "a.pt", "train": {"pyx_weight": 1.0}}
    smoke_params["suite"]["imported"] = {"theirs": {**entry, "weights": {"ema_decay": None}}}
    Path("params.yaml").write_text(yaml.safe_dump(smoke_params))
    now = load_params("params.yaml")
    records.write(now, records.RECORDS)
    for job in (("train", "mjem"), ("import_checkpoint", "theirs")):
        assert records.recorded(now, *job) == now.resolve(*job)
    assert records.recorded(now, "train", "mjem").train.grad_bound is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("  lr: 0.1\n", "", "train.lr"),
        ("  lr: 0.1\n", "  lr: fast\n", "train.lr is str 'fast'"),
        ("  lr: 0.1\n", "  lr: 0.1\n  rate: 1\n", "train.rate"),
        ("train:\n", "trian:\n", "train"),
        ("name: mjem\n", "name: [\n", "is not valid YAML"),
    ],
)
def test_a_damaged_record_is_named_in_one_line(params, old, new, message):
    path = Path(records.RECORDS, "train.mjem.yaml")
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(DataError) as error:
        records.recorded(params, "train", "mjem")
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    path.unlink()
    with pytest.raises(DataError, match=r"train\.mjem\.yaml: no such file"):
        records.recorded(params, "train", "mjem")


@pytest.mark.parametrize(
    "edit", [("  lr: 0.1\n", "  lr: 0.2\n"), ("  mebm/method/sgld.py: ", "  mebm/method/sgld.py: f")]
)
def test_a_record_of_other_values_or_code_is_refused(params, edit):
    path = Path(records.RECORDS, "train.mjem.yaml")
    text = path.read_text()
    assert edit[0] in text
    path.write_text(text.replace(*edit))
    with pytest.raises(ParamsError, match=r"was changed after results/params/train\.mjem\.yaml was made from it"):
        records.recorded(params, "train", "mjem")


def test_names_and_paths_that_mean_something_in_yaml_come_back_as_they_are(smoke_params, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "pictures: 2024 #1"
    path.mkdir()
    for entries in (smoke_params["suite"]["trained"], smoke_params["suite"]["analysed"]):
        entries["no"] = entries.pop("mjem")
    smoke_params["suite"]["datasets"]["on"] = {"dataset": {"source": "image_folder", "path": str(path)}}
    Path("params.yaml").write_text(yaml.safe_dump(smoke_params))
    loaded = load_params("params.yaml")
    records.write(loaded, records.RECORDS)
    for stage, name in loaded.jobs():
        assert records.recorded(loaded, stage, name) == loaded.resolve(stage, name), (stage, name)
    assert list(yaml.safe_load(Path(records.RECORDS, "dataset.on.yaml").read_text())["inputs"]) == [str(path)]
