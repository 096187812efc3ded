"""The suite `beyond` is the paper's M-JEM of CIFAR-10 with one thing more at a time: what each of its jobs is told."""

import pytest
import yaml
from smoke import ROOT

from mebm.engine.graph import Graph
from mebm.epochs import kept_epochs
from mebm.settings.reading import parse
from mebm.settings.suite import Params, check_params

RUNS = {  # by name: what differs from the paper's run, beside averages, which change no number
    **{f"sgd_{seed}": {"seed": seed} for seed in range(3)},
    **{f"sam_{seed}": {"seed": seed, "algorithm": "sharpness_aware"} for seed in range(3)},
    "asam_0": {"algorithm": "sharpness_aware", "sam_adaptive": True, "sam_rho": 0.5},
    "classwise_0": {"init": "classwise"},
    "held_out_0": {"validation_images": 5000, "keep_every": 2},
}
SETTLED = {"bn_images": 10_000, "sgld_steps": 20}
IMPORTED = {  # by end of the name: the section weights
    **{f"999_{of}": {"choose": "last", "ema_decay": 0.999, **SETTLED} for of in ("sgd", "sam")},
    **{f"9999_{of}": {"choose": "last", "ema_decay": 0.9999, **SETTLED} for of in ("sgd", "sam")},
    "bn_sgd": {"choose": "last", "ema_decay": None, "bn_images": 10_000, "sgld_steps": 0},
}


@pytest.fixture(scope="module")
def suites() -> dict[str, Params]:
    path = ROOT / "params.yaml"
    content = parse(path.read_text(encoding="utf-8"))
    return {name: check_params(path, content | {"suite": content["suites"][name]}) for name in ("paper", "beyond")}


@pytest.fixture(scope="module")
def beyond(suites) -> Params:
    return suites["beyond"]


def test_a_run_differs_from_the_papers_in_what_it_shows(suites, beyond):
    paper = suites["paper"].resolve("train", "mjem_cifar10").train.model_dump()
    assert set(beyond.trained) == set(RUNS)
    for name, differences in RUNS.items():
        train = beyond.resolve("train", name).train.model_dump()
        assert train.pop("ema_decays") == ([] if name == "held_out_0" else [0.999, 0.9999]), name
        assert train == {key: value for key, value in paper.items() if key != "ema_decays"} | differences, name
        assert beyond.resolve("sample", name).sample.protocols == ["full", "release_0.9", "release_10000"]


def test_averaged_weights_of_three_seeds_are_a_row(beyond):
    rows = beyond.resolve("tables", "generation").runs
    for key, weights in IMPORTED.items():
        end, of = key.split("_")
        names = [f"{of}_{seed}_{end}" for seed in range(3)]
        assert len({rows[name].method for name in names}) == 1
        for seed, name in enumerate(names):
            told = beyond.resolve("import_checkpoint", name)
            assert told.weights.model_dump() == weights
            assert told.train == beyond.resolve("train", f"{of}_{seed}").train
    members: dict[str, int] = {}
    for row in rows.values():
        members[row.method] = members.get(row.method, 0) + 1
    assert sorted(members.values()) == [1] * 5 + [3] * 7


def test_the_best_weights_are_chosen_by_what_was_held_out_and_nothing_else_differs(beyond):
    for by in ("accuracy", "quality"):
        told = beyond.resolve("import_checkpoint", f"held_out_0_{by}")
        assert told.weights.model_dump() == {"choose": by, "ema_decay": None, "bn_images": 0, "sgld_steps": 0}
        assert kept_epochs(told.train) == list(range(10, 201, 10))


def test_both_data_sets_have_both_initial_distributions_which_the_paper_suite_has_not(suites, beyond):
    """In the paper suite the trainings would start anew: they read the file that the Gaussians are in."""
    for name in ("cifar10", "cifar100"):
        assert beyond.resolve("baseline", name).gaussian.classwise
        assert not suites["paper"].resolve("baseline", name).gaussian.classwise
    assert {run.dataset for run in beyond.runs.values()} == {"cifar10"}


def test_a_choice_waits_for_the_weights_and_for_the_features_that_it_is_made_by(beyond):
    graph = Graph(ROOT / "dvc.yaml", beyond)
    order = [job.address for job in graph.ordered()]
    of = order.index("import_checkpoint@held_out_0_quality")
    assert max(order.index("train@held_out_0"), order.index("features@cifar10")) < of
    inputs = graph.inputs("import_checkpoint", "held_out_0_quality")
    assert {"results/held_out_0/train/snapshots", "data/cifar10/features.pt", "data/cifar10/train.npz"} == set(inputs)
    assert not any("test.npz" in path for path in inputs)


def test_the_file_reads_the_same_for_dvc(beyond):
    """Which fills its templates from the plain data, anchors and all."""
    suite = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["suites"]["beyond"]
    for name, run in beyond.imported.items():
        entry = suite["imported"][name]
        assert (entry["dataset"], entry["checkpoint"]) == (run.dataset, run.checkpoint)
        assert f"{name.split('_')[0]}_" in run.checkpoint
