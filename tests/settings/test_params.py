"""The parameter file: closed, typed, ranged, and read as DVC reads it."""

import subprocess
import sys
from pathlib import Path

import pytest
import smoke
import yaml

from mebm.engine import records
from mebm.errors import ParamsError
from mebm.settings.editing import changed, comments, differ, override, with_values
from mebm.settings.reading import flow, parse
from mebm.settings.schema import SECTIONS, Train
from mebm.settings.suite import load_params


@pytest.fixture
def write(tmp_path):
    """Write parameters (plain data or text) to a file and return its path."""

    def write(content: dict | str) -> Path:
        path = tmp_path / "params.yaml"
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
        return path

    return write


def set_value(base: dict, keys: str, value: object) -> dict:
    *path, last = keys.split(".")
    for key in path:
        base = base[key]
    base[last] = value
    return base


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("train.n_stepz", 1, "train.n_stepz: unknown key"),
        ("trian", {}, "trian: unknown section"),
        ("suite.trained.mebm.dataset", ["digits"], "trained.mebm.dataset: is ['digits']"),
        ("quality.score_splits", 1000, "quality.score_splits: is 1000, expected at most 100 (baseline.n_images)"),
        ("train.n_steps", 1.5, "train.n_steps: is 1.5"),
        ("train.n_steps", "5", "train.n_steps: is '5'"),
        ("train.execution", "fast", "train.execution: is 'fast'"),
        ("train.lr", float("nan"), "train.lr: is nan"),
        ("train.lr", 0.0, "train.lr: is 0.0"),
        ("train.norm", "group", "train.norm: is 'group'"),
        ("train.decay_epochs", [5, 3], "decay_epochs: is [5, 3]"),
        ("train.depth", 12, "train.depth: is 12"),
        ("train.px_weight", 0.0, "px_weight and pyx_weight are both 0"),
        ("compute.cpu_threads", 0, "compute.cpu_threads: is 0"),
        ("suite.trained.mebm.train", {"lrr": 1.0}, "trained.mebm.train.lrr: unknown key"),
        ("suite.trained.mebm.gaussian", {"ridge": 1.0}, "trained.mebm.gaussian: unknown key"),
        ("suite.trained.mebm.dataset", "cifar", "trained.mebm.dataset: is 'cifar'"),
        ("suite.trained.mebm.method", "", "trained.mebm.method: is ''"),
        ("suite.datasets.digits.dataset", {"seed": -1}, "datasets.digits.dataset.seed: is -1"),
        ("suite.trained", {}, "trained: is {}, expected at least one entry"),
        ("suite.datasets", None, "datasets: is missing, expected a mapping"),
        ("suite.run", {}, "suite.run: unknown key; known: name"),
        ("suite.tables", ["tabel"], "suite.tables: is ['tabel']"),
        ("suite.defaults", {"train": {"lr": -1.0}}, "defaults.train.lr: is -1.0"),
        ("suite.defaults", {"trian": {}}, "defaults.trian: unknown key"),
        ("dataset.image_size", 20, "dataset.image_size: is 20, but sklearn_digits comes in 8 pixels"),
        ("dataset.source", "image_folder", "dataset.path: is missing"),
        ("dataset.urls", {"x.zip": "file:///etc/passwd"}, "dataset.urls.x.zip: is 'file:///etc/passwd'"),
        ("dataset.checksums", {"x.zip": "abc"}, "dataset.checksums.x.zip: is 'abc'"),
        ("features.weights_sha256", "xyz", "features.weights_sha256: is 'xyz'"),
        ("sample.protocols", ["half"], "sample.protocols.0: is 'half'"),
        ("train", None, "train: is missing"),
    ],
)
def test_a_bad_value_is_named(write, smoke_params, keys, value, message):
    set_value(smoke_params, keys, value)
    with pytest.raises(ParamsError) as error:
        load_params(write(smoke_params))
    assert message in str(error.value)


@pytest.mark.parametrize("name", ["Upper", "a-b", "a;rm -rf x", "../up", "$(x)", "summary"])
def test_run_names_are_safe_for_paths_and_shells(write, smoke_params, name):
    suite = smoke_params["suite"]
    suite["trained"][name] = suite["trained"].pop("mebm")
    with pytest.raises(ParamsError, match="name"):
        load_params(write(smoke_params))


def test_a_misspelt_key_is_named_rather_than_the_one_that_it_leaves_missing(write, smoke_params):
    smoke_params["plots"]["grid_colums"] = smoke_params["plots"].pop("grid_columns")
    with pytest.raises(ParamsError, match=r"plots\.grid_colums: unknown key"):
        load_params(write(smoke_params))


def test_a_suite_may_hold_imported_runs_only(write, smoke_params):
    released = {"released": {"method": "released", "dataset": "digits", "checkpoint": "data/released.pt"}}
    smoke_params["suite"] |= {"trained": {}, "imported": released, "analysed": {}}
    assert load_params(write(smoke_params)).trained == {}


def test_a_suite_needs_a_name_data_sets_runs_and_tables_only(write, smoke_params):
    full = smoke_params["suite"]
    smoke_params["suite"] = {key: full[key] for key in ("name", "datasets", "trained", "tables")}
    loaded = load_params(write(smoke_params))
    assert (loaded.compared, loaded.imported, loaded.analysed) == ({}, {}, {})
    assert set(loaded.runs) == {"mebm", "mjem"}
    for key in ("name", "datasets", "tables"):
        suite = dict(smoke_params["suite"])
        del suite[key]
        with pytest.raises(ParamsError, match=rf"suite\.{key}: is missing, expected in every suite"):
            load_params(write({**smoke_params, "suite": suite}))
    del smoke_params["suite"]["trained"]
    with pytest.raises(ParamsError, match=r"trained: is \{\}, expected at least one entry"):
        load_params(write(smoke_params))


def test_settings_load_without_numpy_and_torch():
    names = [path.stem for path in (smoke.ROOT / "mebm" / "settings").glob("[a-z]*.py")]
    assert len(names) > 8
    script = (
        f"import sys\nfrom mebm.settings import {', '.join(names)}\nprint(*{{'numpy', 'torch'}} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"


def test_analysed_runs_are_runs(write, smoke_params):
    smoke_params["suite"]["analysed"] = {"mjem": {"method": "other", "dataset": "digits"}}
    with pytest.raises(ParamsError, match=r"suite\.analysed\.mjem: differs from trained\.mjem"):
        load_params(write(smoke_params))


def test_runs_of_one_method_differ_in_their_seed_only(write, smoke_params):
    suite = smoke_params["suite"]
    suite["trained"]["again"] = {**suite["trained"]["mjem"], "train": {"pyx_weight": 1.0, "seed": 1}}
    load_params(write(smoke_params))
    suite["trained"]["again"]["train"]["lr"] = 0.5
    with pytest.raises(ParamsError, match=r"has the method 'M-JEM' of (mjem|again), but another train\.lr"):
        load_params(write(smoke_params))


def test_a_missing_value_is_named(write, smoke_params):
    del smoke_params["train"]["lr"]
    with pytest.raises(ParamsError, match=r"train\.lr: missing"):
        load_params(write(smoke_params))


def test_an_unused_suite_is_checked_too(write, smoke_params):
    other = smoke.suite("other", {"x": {}}, {"y": {"method": "M", "dataset": "x", "train": {"bad": 1}}})
    smoke_params["suites"] = {"other": other}
    with pytest.raises(ParamsError, match=r"trained\.y\.train\.bad"):
        load_params(write(smoke_params))


def test_scalars_are_those_of_yaml_1_2():
    text = "{a: 1e-4, b: 1.0e-4, c: no, d: on, e: 010, f: 1:30, g: true, h: ~, i: -3, j: .5, k: 0x10, l: '1'}"
    ours = parse(text)
    assert ours == {
        **{"a": 1e-4, "b": 1e-4, "c": "no", "d": "on", "e": 10, "f": "1:30"},
        **{"g": True, "h": None, "i": -3, "j": 0.5, "k": 16, "l": "1"},
    }
    from ruamel.yaml import YAML  # the reader that DVC uses

    assert YAML(typ="safe", pure=True).load(text) == ours


def test_the_project_file_reads_the_same_as_dvc_reads_it():
    from ruamel.yaml import YAML

    path = smoke.ROOT / "params.yaml"
    assert YAML(typ="safe", pure=True).load(path.read_text()) == parse(path.read_text())
    assert load_params(path).suite == "demo"


def test_a_float_may_be_written_without_a_point(write, smoke_params):
    text = yaml.safe_dump(smoke_params).replace("ridge: 0.0001", "ridge: 1e-4")
    assert "1e-4" in text
    assert load_params(write(text)).resolve("gaussian", "digits").gaussian.ridge == 1e-4


def test_duplicate_keys_and_broken_yaml(write, tmp_path):
    for text, message in (
        ("train: {lr: 1, lr: 2}", "'lr' occurs twice, line 1$"),
        ("train:\n  lr: 1\n  # why\n  lr: 2\n", "'lr' occurs twice, line 4$"),
        ("train: [", "not valid YAML"),
        ("", "holds"),
    ):
        with pytest.raises(ParamsError, match=message):
            load_params(write(text))
    with pytest.raises(ParamsError, match="cannot be read"):
        load_params(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("wrong", "cure"), [("demo", "; write `suite: *demo`, the anchor of that suite"), ("demos", ""), (["demo"], "")]
)
def test_a_suite_that_lacks_its_star_is_told_it(write, smoke_params, wrong, cure):
    path = write({**smoke_params, "suites": {"demo": smoke_params["suite"]}, "suite": wrong})
    with pytest.raises(ParamsError) as error:
        load_params(path)
    assert str(error.value) == f"{path}: suite: is {wrong!r}, expected a section with keys{cure}"


def test_a_run_overrides_and_inherits(write, smoke_params):
    loaded = load_params(write(smoke_params))
    assert loaded.resolve("train", "mjem").train.pyx_weight == 1.0
    assert loaded.resolve("train", "mebm").train.pyx_weight == 0.0
    assert loaded.resolve("train", "mjem").train.lr == smoke_params["train"]["lr"]
    assert loaded.resolve("train", "mjem").dataset_name == "digits"
    with pytest.raises(ParamsError, match="known: mebm, mjem"):
        loaded.resolve("train", "other")


def test_an_edit_changes_exactly_the_files_of_the_jobs_that_read_it(write, smoke_params, tmp_path):
    out = tmp_path / "resolved"

    def times() -> dict[str, int]:
        records.write(load_params(write(smoke_params)), out)
        return {path.name: path.stat().st_mtime_ns for path in out.iterdir()}

    first = times()
    assert times() == first
    smoke_params["suite"]["trained"]["mjem"]["train"]["l2_coeff"] = 0.3
    second = times()
    changed_files = {name for name in second if second[name] != first[name]}
    assert changed_files == {"train.mjem.yaml", "report.smoke.yaml", "all.yaml"}
    smoke_params["train"]["l2_coeff"] = 0.2  # mjem has its own value and does not read this one
    third = times()
    assert {name for name in third if third[name] != second[name]} == {"train.mebm.yaml", "all.yaml"}
    del smoke_params["suite"]["trained"]["mebm"]
    assert not [name for name in times() if ".mebm." in name]


def test_lists_of_the_command_line_say_how_they_are_written(write, smoke_params):
    loaded = load_params(write(smoke_params))
    ood, robustness = loaded.resolve("ood", "mjem").ood, loaded.resolve("robustness", "mjem").robustness
    with pytest.raises(ParamsError, match=r"^--sets: is 'digits': expected a list, which is written \[digits\]$"):
        changed(ood, {"sets": "digits"})
    with pytest.raises(ParamsError, match=r"^--radii-linf: is 8: expected a list, which is written \[8\]$"):
        changed(robustness, {"radii_linf": "8"})
    with pytest.raises(ParamsError, match=r"expected a list, which is written \[a, b\]$"):
        changed(robustness, {"radii_linf": "{a: 1}"})
    assert changed(robustness, {"radii_linf": "[8]"}).radii_linf == [8]


def test_runs_lie_over_those_of_the_suite(write):
    content = set_value(smoke.smoke_params(), "runs", {"mjem": {"train": {"n_steps": 7}}})
    loaded = load_params(write(content))
    assert loaded.resolve("train", "mjem").train.n_steps == 7
    assert loaded.resolve("train", "mjem").train.pyx_weight == 1.0
    assert loaded.resolve("train", "mebm").train.n_steps == 2
    assert loaded.analysed["mjem"].of(Train).n_steps == 7


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ({"nobody": {"train": {}}}, "runs.nobody: no suite has this run; known: mebm, mjem"),
        ({"mjem": {"train": {"n_steps": "many"}}}, "runs.mjem.train.n_steps: is 'many'"),
        ({"mjem": {"train": {"n_step": 1}}}, "runs.mjem.train.n_step: unknown key"),
        ({"mjem": {"trian": {}}}, "runs.mjem.trian: unknown key"),
        ({"mjem": {"dataset": "svhn"}}, "runs.mjem.dataset: unknown key; known: "),
        ({"mjem": {"dataset": {"evaluate_on": "validation"}}}, "runs.mjem.dataset: unknown key; known: "),
        ({"mjem": {"tables": {"digits": 2}}}, "runs.mjem.tables: unknown key; known: "),
        ({"mjem": 3}, "runs.mjem: is 3, expected a mapping"),
    ],
)
def test_wrong_overrides_of_runs_are_named(write, runs, message):
    with pytest.raises(ParamsError) as error:
        load_params(write(set_value(smoke.smoke_params(), "runs", runs)))
    assert message in str(error.value)


@pytest.mark.parametrize("wrong", [5, [{"a": 1}], [1, "a"], {1: {}}, {"mjem": {"train": "abc"}}])
def test_runs_over_a_suite_that_is_wrong_name_what_is_wrong(write, wrong):
    content = set_value(smoke.smoke_params(), "runs", {"mjem": {"train": {"n_steps": 7}}})
    content["suite"]["trained"] = wrong
    with pytest.raises(ParamsError):
        load_params(write(content))


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("runs: {}  # why\n", "runs: {b: {train: {n_steps: 3}}}  # why\n"),
        ("runs: # why\n", "runs: {b: {train: {n_steps: 3}}} # why\n"),
        ("runs: null\n", "runs: {b: {train: {n_steps: 3}}}\n"),
        ("", "runs: {b: {train: {n_steps: 3}}}\n"),
        ("runs: {a: {}, }\n", "runs: {b: {train: {n_steps: 3}}, a: {}, }\n"),
        (
            "runs:\n  a: {train: {lr: 1.0}}\n\n  b:\n    train:\n      lr: 2.0 # two\n\n# of what follows\n",
            "runs:\n  a: {train: {lr: 1.0}}\n\n  b:\n    train:\n      lr: 2.0 # two\n      n_steps: 3\n\n"
            "# of what follows\n",
        ),
        ("runs:\n  # why\n  a: {}\n# and\n  b: {}\n", "runs:\n  # why\n  a: {}\n# and\n  b: {train: {n_steps: 3}}\n"),
        ("runs: {b: {train: {n_steps: &n 1, lr: 2}}}\n", "runs: {b: {train: {n_steps: &n 3, lr: 2}}}\n"),
        (
            "runs: {a: &a {train: {lr: 1}}, b: *a}\n",
            "runs: {a: &a {train: {lr: 1}}, b: {train: {lr: 1, n_steps: 3}}}\n",
        ),
        (
            "runs:\n  b:\n    train:\n      n_steps:\n      - 1\n      - 2\n      # end\n",
            "runs:\n  b:\n    train:\n      n_steps: 3\n      # end\n",
        ),
        ("runs:\r\n  b:\r\n    train:\r\n      n_steps: 1\r\n", "runs:\r\n  b:\r\n    train:\r\n      n_steps: 3\r\n"),
    ],
)
def test_a_value_of_a_run_is_set_however_the_section_is_written(before, after):
    text = with_values(f"x: 1\n{before}", ["runs.b.train.n_steps=3"])
    assert text == f"x: 1\n{after}"
    assert parse(text)["runs"]["b"]["train"]["n_steps"] == 3
    assert with_values(text, ["runs.b.train.n_steps=3"]) == text


def project_values() -> list[tuple[str, str, object]]:
    content = parse((smoke.ROOT / "params.yaml").read_text())
    return [(section, key, value) for section in SECTIONS for key, value in content[section].items()]


@pytest.mark.more
def test_a_value_that_is_set_and_set_back_leaves_the_file_as_it_was_to_the_byte():
    text = (smoke.ROOT / "params.yaml").read_text()
    lines = text.splitlines()
    plain = [(s, k, v) for s, k, v in project_values() if f"  {k}: {flow(v)}" in text]  # not those such as 5.0e-4
    assert len(plain) > 90
    for section, key, value in plain[::4]:
        other = with_values(text, [f"{section}.{key}=12345"])
        assert parse(other)[section][key] == 12345
        assert len([1 for one, two in zip(lines, other.splitlines(), strict=True) if one != two]) == 1
        assert with_values(other, [f"{section}.{key}={flow(value)}"]) == text


@pytest.mark.parametrize(
    "value", [[1, 1e-5, None, True], "no", "0o17", "a: b", "é", {"a": {}}, 1e-5, "1e-4", "", [], -0.0]
)
def test_a_value_on_one_line_reads_as_itself(value):
    assert parse(flow(value)) == value
    assert "\n" not in flow(value)


def test_what_the_file_says_of_a_key_is_the_comment_behind_its_value(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(
        "plots: # of all\n  grid_rows: '#' # rows\n  grid_columns: [1, # one\n    2] # columns\n  x: 1\ny: 2 # y\n"
    )
    assert comments(path, "plots") == {"grid_rows": "rows", "grid_columns": "columns"}
    assert comments(smoke.ROOT / "params.yaml", "calibration")["n_bins"] == "bins of confidence; paper 20"


def test_values_are_set_in_their_own_lines_only():
    text = (smoke.ROOT / "params.yaml").read_text()
    changes = [
        "++runs.mjem_mnist.train.n_steps=10",
        "runs.mjem_mnist.train.lr=1e-3",
        "ood.seed=4",
        "train.grad_bound=null",
    ]
    after = with_values(text, changes)
    differ = [new for old, new in zip(text.splitlines(), after.splitlines(), strict=True) if old != new]
    assert [line.split("#")[0].strip() for line in differ] == [
        "grad_bound: null",
        "seed: 4",
        "runs: {mjem_mnist: {train: {lr: 0.001, n_steps: 10}}}",
    ]
    assert all("#" in line for line in differ)
    assert with_values(after, changes) == after


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("n_steps", "cannot be set from a command line; expected"),
        ("train.n_steps", "cannot be set from a command line; expected"),
        ("runs.mjem_mnist.train=1", "cannot be set from a command line; expected"),
        ("suite.name=x", "cannot be set from a command line; expected"),
        ("train.n_step=1", "the section train has no line of the key 'n_step'"),
        ("ood.seed=[1", "'[1' is not a value"),
        ("ood.seed=x", "ood.seed: is 'x'"),
        ("runs.nobody.train.n_steps=1", "runs.nobody: no suite has this run"),
        ("train.epochs=1", "has no effect, since the defaults of the suite 'demo' set train.epochs"),
    ],
)
def test_wrong_assignments_are_named_and_nothing_is_written(tmp_path, assignment, message):
    path = tmp_path / "params.yaml"
    text = (smoke.ROOT / "params.yaml").read_text()
    path.write_text(text)
    with pytest.raises(ParamsError) as error:
        override(path, [assignment], write=True)
    assert message in str(error.value)
    assert path.read_text() == text


def test_an_assignment_is_written_once(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((smoke.ROOT / "params.yaml").read_text())
    wanted = ["runs.mjem_mnist.train.n_steps=10"]
    assert differ(path, wanted)
    assert override(path, wanted, write=False).resolve("train", "mjem_mnist").train.n_steps == 10
    assert load_params(path).resolve("train", "mjem_mnist").train.n_steps == 5
    override(path, wanted, write=True)
    assert load_params(path).resolve("train", "mjem_mnist").train.n_steps == 10
    assert not differ(path, wanted)
