"""Numbers of a feature space, layouts that repeat, and the stage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.metrics import silhouette_samples
from threadpoolctl import threadpool_info, threadpool_limits

from mebm.analyses.embedding import intrusion, layout, mixing, scatter, separability, violins
from mebm.data.archives import save_images
from mebm.data.images import bytes_to_unit
from mebm.errors import MetricError
from mebm.figures.plots import figure
from mebm.files import write_npz
from mebm.measure.evaluation import statistics
from mebm.method.energy import build_model
from mebm.method.gaussian import fit_gaussian
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from stages import embedding

ARCHITECTURE = {"depth": 10, "width": 1, "head": "energy", "norm": "batch", "dropout": 0.0}
LINE = np.array([[0.0], [1.0], [2.0], [10.0], [11.0], [12.0]])
RNG = np.random.default_rng


def test_separability_of_groups_on_a_line():
    labels = np.array([0, 0, 0, 1, 1, 1])
    found = separability(LINE, labels, 2)
    # of the point 0: a = (1 + 2) / 2, b = (10 + 11 + 12) / 3
    assert silhouette_samples(LINE, labels)[0] == pytest.approx(1 - 1.5 / 11)
    assert found == {"knn_accuracy": 1.0, "silhouette": pytest.approx(silhouette_samples(LINE, labels).mean())}
    # with its three nearest others, which are two of its own and one of the other group, still
    assert separability(LINE, labels, 3)["knn_accuracy"] == 1.0
    # with all five others, two of them of its own group, none
    assert separability(LINE, labels, 5)["knn_accuracy"] == 0.0
    assert separability(LINE, np.zeros(6, int), 2) == {"knn_accuracy": 1.0, "silhouette": None}
    assert separability(LINE, np.arange(6), 2) == {"knn_accuracy": 0.0, "silhouette": None}


def test_leave_one_out_accuracy_agrees_with_brute_force():
    features, labels = RNG(0).normal(size=(80, 5)), RNG(1).integers(0, 3, 80)
    features[:, 0] += labels
    distances = np.linalg.norm(features[:, None] - features, axis=2)
    np.fill_diagonal(distances, np.inf)
    votes = [np.bincount(labels[row.argsort()[:7]], minlength=3).argmax() for row in distances]
    assert separability(features, labels, 7)["knn_accuracy"] == pytest.approx((votes == labels).mean())


def test_intrusion_on_a_line():
    labels = np.array([0, 0, 0, 1, 1, 1])
    assert intrusion(LINE, labels, 2) == 0.0
    assert intrusion(LINE, labels, 5) == pytest.approx(3 / 5)
    # three neighbours each; the first sample lies among the other class, the second among its own
    assert intrusion(LINE, labels, 3, np.array([[1.0], [11.0]]), np.array([1, 1])) == 0.5
    assert intrusion(LINE, labels, 3, np.array([[3.0]]), np.array([1])) == 1.0
    assert intrusion(LINE, labels, 4, np.array([[3.0]]), np.array([0])) == 0.25


def test_mixing_of_equal_groups_is_a_third_each_and_of_a_distant_one_itself():
    features, groups = RNG(0).normal(size=(900, 4)), np.arange(3).repeat(300)
    np.testing.assert_allclose(mixing(features, groups, 1, 10), 1 / 3, atol=0.03)
    apart = features + 100 * (groups == 1)[:, None]
    assert mixing(apart, groups, 1, 10).tolist() == [0, 1, 0]
    assert mixing(apart, groups, 0, 10)[1] == 0
    # by hand: the nearest of 1 and of 2 are each other, of 11 (group 1, too) 10 or 12, the first in order
    assert mixing(LINE, np.array([0, 1, 1, 2, 1, 0]), 1, 1).tolist() == pytest.approx([1 / 3, 1 / 3, 1 / 3])


def test_numbers_do_not_depend_on_rotation_or_shift():
    features, labels = RNG(0).normal(size=(90, 6)), RNG(1).integers(0, 3, 90)
    turned = features @ np.linalg.qr(RNG(2).normal(size=(6, 6)))[0] + 5
    for function in (
        lambda x: [*separability(x, labels, 5).values()],
        lambda x: intrusion(x, labels, 5),
        lambda x: mixing(x, labels, 1, 5),
    ):
        np.testing.assert_allclose(function(turned), function(features), rtol=1e-9)


def test_a_layout_repeats_on_any_number_of_threads_and_keeps_clusters():
    features, groups = RNG(0).normal(size=(90, 8)), np.arange(3).repeat(30)
    features[:, 0] += 20 * groups
    one = layout(features, 10.0, 0)
    with threadpool_limits(2):
        assert np.array_equal(layout(features, 10.0, 0), one)
        assert any(pool["num_threads"] == 2 for pool in threadpool_info())  # and the caller's threads are as before
    assert separability(one, groups, 5)["knn_accuracy"] == 1.0
    assert one.shape == (90, 2)


def test_what_cannot_be_laid_out_is_said():
    with pytest.raises(MetricError, match="a perplexity of 30 needs more than the 30 images"):
        layout(RNG(0).normal(size=(30, 4)), 30.0, 0)
    with pytest.raises(MetricError, match="the same for all"):
        layout(np.ones((30, 4)), 5.0, 0)


@pytest.mark.parametrize(("n", "named"), [(3, True), (20, True), (30, False)])
def test_many_classes_are_named_in_the_picture(n, named, tmp_path):
    groups = np.arange(n).repeat(2)
    with figure(tmp_path / "a.svg") as axes:
        scatter(axes, RNG(0).normal(size=(2 * n, 2)), groups, [f"class {i}" for i in range(n)])
        assert (axes.get_legend() is not None) == named
        points = axes.collections[0]
    assert len(np.unique(points.get_facecolor(), axis=0)) == n
    assert len(points.get_offsets()) == 2 * n
    text = (tmp_path / "a.svg").read_text()
    assert ("class 2<" in text) == named


def test_violins_of_constant_energies_are_drawn(tmp_path):
    with figure(tmp_path / "a.svg") as axes:
        violins(axes, {"data": np.zeros(10), "replay buffer": RNG(0).normal(size=10)})
    assert "replay buffer" in (tmp_path / "a.svg").read_text()


@pytest.fixture
def run(digits, tmp_path, smoke_params):
    """Runs the stage with 60 chains, 200 digits and the settings given; returns its exit status and its folder."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    torch.manual_seed(0)
    model = build_model((1, 8, 8), 10, **ARCHITECTURE)
    mean, cov = fit_gaussian(digits.images[:200])
    write_npz(tmp_path / "gaussian.npz", mean=mean.numpy(), cov=cov.numpy(), ridge=np.float64(1e-4))
    save_images(tmp_path / "train.npz", digits.images[:200].numpy(), digits.labels[:200].numpy())
    save_images(tmp_path / "unlabelled.npz", digits.images[:200].numpy())
    chains = bytes_to_unit(digits.images[200:260])

    def call(out: str, *more: str, pyx_weight=1.0, init="gaussian", class_bias=0.0) -> tuple[int, Path]:
        with torch.no_grad():
            model.class_head.bias[1] = class_bias
        train = {**ARCHITECTURE, "pyx_weight": pyx_weight, "init": init}
        save_checkpoint(tmp_path / "checkpoint.pt", Checkpoint(model, chains, train, (1, 8, 8), 10, 1))
        paths = {"params": "params.yaml", "checkpoint": "checkpoint.pt", "train": "train.npz"}
        paths |= {"gaussian": "gaussian.npz", "logs": "logs", "out": out}
        words = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
        return embedding.main(["--run", "mjem", *words, *more]), tmp_path / out

    return call


def test_a_run_with_a_classifier_has_every_number(run):
    status, folder = run("a")
    record = json.loads((folder / "metrics.json").read_text())
    assert (status, record["status"], record["n_images"], record["batch_size"]) == (0, "ok", 40, 40)
    near = [record["sources"][f"buffer_near_{name}"] for name in ("data", "buffer", "initial")]
    assert sum(near) == pytest.approx(1)
    assert near[2] < near[0]  # chains that are digits are closer to digits than to blurred draws
    assert record["classes"]["status"] == record["intrusion"]["status"] == "ok"
    assert 0 <= record["intrusion"]["data"] <= record["intrusion"]["buffer"] <= 1  # the classifier is untrained
    assert {path.name for path in (folder / "figures").iterdir()} == {"sources.svg", "classes.svg", "energies.svg"}


def test_energies_are_those_of_batches_with_their_own_statistics(run, tmp_path):
    _, folder = run("a", "--n-images", "60", "--batch-size", "50")
    record = json.loads((folder / "metrics.json").read_text())
    assert record["batch_size"] == 30  # two batches alike rather than 50 and 10
    _, folder = run("b", "--n-images", "60", "--batch-size", "60")
    checkpoint = load_checkpoint(tmp_path / "checkpoint.pt")
    with torch.no_grad(), statistics(checkpoint.model, "batch"):
        expected = float(checkpoint.model.energy(checkpoint.replay_buffer).mean())
    with torch.no_grad():
        running = float(checkpoint.model.energy(checkpoint.replay_buffer).mean())
    found = json.loads((folder / "metrics.json").read_text())["energy"]["buffer"]["mean"]
    assert found == pytest.approx(expected, abs=1e-5)  # sums in another order
    assert abs(found - running) > 1e-3


def test_without_a_classifier_the_rest_is_there(run):
    status, folder = run("a", pyx_weight=0.0)
    record = json.loads((folder / "metrics.json").read_text())
    assert (status, record["status"]) == (0, "ok")
    assert record["intrusion"] == {"status": "no classifier: pyx_weight is 0"}
    assert record["classes"]["status"] == "ok"
    assert "class 0" in (folder / "figures" / "classes.svg").read_text()


def test_without_labels_there_is_a_message(run, tmp_path):
    status, folder = run("a", "--train", str(tmp_path / "unlabelled.npz"), pyx_weight=0.0)
    record = json.loads((folder / "metrics.json").read_text())
    assert status == 0
    assert record["classes"] == record["intrusion"] == {"status": "no labels"}
    assert record["sources"]["silhouette"] is not None
    assert "no labels" in (folder / "figures" / "classes.svg").read_text()


def test_a_uniform_start_needs_no_gaussian(run):
    status, folder = run("a", "--gaussian", "nowhere.npz", init="uniform")
    assert status == 0
    assert json.loads((folder / "metrics.json").read_text())["gaussian_sha256"] is None


def test_the_seed_decides_everything(run):
    folders = [run(str(i), "--seed", seed)[1] for i, seed in enumerate(("3", "3", "4"))]
    files = [{path.name: path.read_bytes() for path in folder.rglob("[!.]*.*")} for folder in folders]
    assert files[0] == files[1]
    assert len(files[0]) == 4
    assert all(files[0][name] != files[2][name] for name in files[0])


def test_too_few_images_end_in_one_line(run, capsys):
    assert run("a", "--perplexity", "40")[0] == 2
    assert "embedding.perplexity: is 40.0, expected less than the 40 images of a source" in capsys.readouterr().err
    assert run("a", "--n-neighbours", "60", "--n-images", "1000")[0] == 2  # there are 60 chains
    assert "embedding.n_neighbours: is 60, expected less than the 60 images" in capsys.readouterr().err


def test_classes_that_are_not_finite_end_in_one_line(run, capsys):
    """Features and energies stay finite; the class of a NaN would be a number like any other."""
    status, folder = run("a", class_bias=float("nan"))
    assert status == 1
    assert "error: class logits of the replay buffer are not finite; the run's weights have" in capsys.readouterr().err
    assert not (folder / "metrics.json").exists()


def test_features_that_are_all_the_same_leave_nothing(run, tmp_path, monkeypatch, capsys):
    def constant(*args, **options):
        seen = score(*args, **options)
        seen.features.fill_(1.0)
        return seen

    score = embedding.score
    monkeypatch.setattr(embedding, "score", constant)
    status, folder = run("a")
    assert status == 1
    assert "the same for all images" in capsys.readouterr().err
    assert not folder.exists()
