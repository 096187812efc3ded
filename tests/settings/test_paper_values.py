"""The suite `paper` runs with the published values: what each of its jobs is told, not what the file's top says.

The lists are those of docs/method.md (Symbols, Energy network, Initial distribution, Optimisation, Selection by class,
New samples), which has them from the paper and its release.
"""

import pytest
from smoke import ROOT

from mebm.settings.reading import parse
from mebm.settings.suite import Params, check_params

CIFAR10 = {  # M-EBM, K = 5
    **{"depth": 28, "width": 10, "head": "energy", "norm": "batch", "dropout": 0.0, "algorithm": "published"},
    **{"px_weight": 1.0, "pyx_weight": 0.0, "l2_coeff": 0.5},
    **{"init": "gaussian", "n_steps": 5, "step_size": 1.0, "noise_std": 0.001, "grad_bound": 1.0},
    **{"buffer_size": 10_000, "reinit_freq": 0.05},
    **{"batch_size": 64, "label_batch_size": 128, "augment_pad": 4, "augment_flip": True},
    **{"epochs": 200, "optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4},
    **{"warmup_iters": 1000, "decay_epochs": [60, 120, 180], "decay_factor": 0.2},
}
K2 = {"n_steps": 2, "l2_coeff": 0.1, "noise_std": 0.0}
M_JEM = {"pyx_weight": 1.0}
CELEBA_HQ = {  # without labels nothing is augmented
    **{"width": 2, "n_steps": 10, "l2_coeff": 0.0, "noise_std": 0.0, "lr": 0.02, "decay_epochs": [80, 120, 160]},
    "augment_pad": 0,
}
RUNS = {  # by name: the data set, and what differs
    "mebm_cifar10_k1": ("cifar10", K2 | {"n_steps": 1}),  # whose regularisation is not published
    "mebm_cifar10_k2": ("cifar10", K2),
    "mebm_cifar10": ("cifar10", {}),
    "mebm_cifar10_s1": ("cifar10", {}),
    "mebm_cifar10_s2": ("cifar10", {}),
    "mebm_cifar10_k10": ("cifar10", {"n_steps": 10}),
    "mjem_cifar10": ("cifar10", M_JEM),
    "mjem_cifar10_s1": ("cifar10", M_JEM),
    "mjem_cifar10_s2": ("cifar10", M_JEM),
    "mebm_cifar100": ("cifar100", {}),
    "mjem_cifar100": ("cifar100", M_JEM),
    "mebm_imagenet32": ("imagenet32", {"augment_pad": 0}),  # flips only
    "mebm_celeba_hq": ("celeba_hq", CELEBA_HQ),
    # ablations
    "mebm_cifar10_k2_uniform": ("cifar10", K2 | {"init": "uniform"}),
    "mebm_cifar10_uniform": ("cifar10", {"init": "uniform"}),
    "mebm_cifar10_l2_0": ("cifar10", {"l2_coeff": 0.0}),
    "mebm_cifar10_k2_l2_05": ("cifar10", K2 | {"l2_coeff": 0.5}),
    "jem_cifar10": ("cifar10", M_JEM | {"head": "logsumexp"}),
}
SIDES = {"cifar10": 32, "cifar100": 32, "imagenet32": 32, "celeba_hq": 128}
SCORES = {"score_splits": 10, "permutation_seed": 2020}
ANALYSES = {
    "generate": {"batch_size": 100, "bn_stats": "batch", "grad_bound": None},
    "embedding": {"n_images": 1000},
    "calibration": {"n_bins": 20},
}


@pytest.fixture(scope="module")
def paper() -> Params:
    path = ROOT / "params.yaml"
    content = parse(path.read_text(encoding="utf-8"))
    return check_params(path, content | {"suite": content["suites"]["paper"]})


def values(section, keys) -> dict:
    return {key: getattr(section, key) for key in keys}


def test_training_is_in_bf16(paper):
    """The one setting that is not the release's: docs/performance.md says why it may be."""
    assert {paper.resolve("train", name).train.precision for name in RUNS} == {"bf16"}


def test_the_runs_are_those_of_the_list(paper):
    assert {name: run.dataset for name, run in paper.trained.items()} == {name: of for name, (of, _) in RUNS.items()}
    for run in ("mebm_cifar10", "mjem_cifar10"):
        assert [paper.resolve("train", f"{run}{more}").train.seed for more in ("", "_s1", "_s2")] == [0, 1, 2]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_trains_with_the_published_values(paper, name):
    assert values(paper.resolve("train", name).train, CIFAR10) == CIFAR10 | RUNS[name][1]


@pytest.mark.parametrize("name", RUNS)
def test_a_run_is_scored_by_the_published_protocol_and_by_the_whole_buffer(paper, name):
    published = ["release_0.9", "release_10000"] if RUNS[name][1] == M_JEM else []  # by its class head
    assert paper.resolve("sample", name).sample.protocols == ["full", *published]
    assert values(paper.resolve("quality", name).quality, SCORES) == SCORES


@pytest.mark.parametrize("name", SIDES)
def test_a_data_set_is_prepared_as_published(paper, name):
    dataset = paper.resolve("dataset", name).dataset
    assert (dataset.source, dataset.image_size, dataset.evaluate_on) == (name, SIDES[name], "test")
    assert dataset.n_source is None  # all images
    assert paper.resolve("gaussian", name).gaussian.ridge == 1e-4
    features = paper.resolve("features", name).features
    assert (features.network, features.preprocessing) == ("inception", "tf1")
    assert paper.resolve("reference", name).reference.file is None  # statistics of the training images
    assert values(paper.resolve("baseline", name).quality, SCORES) == SCORES


def test_all_faces_train(paper):
    assert paper.resolve("dataset", "celeba_hq").dataset.n_test == 0


@pytest.mark.parametrize("name", ["mebm_cifar10", "mjem_cifar10", "mebm_celeba_hq"])
def test_analyses_look_as_published(paper, name):
    assert name in paper.analysed
    for stage, wanted in ANALYSES.items():
        assert values(getattr(paper.resolve(stage, name), stage), wanted) == wanted, stage
    assert 400 <= paper.resolve("generate", name).generate.steps <= 1000
    assert set(paper.compared) == {"svhn", "cifar100", "celeba"}
