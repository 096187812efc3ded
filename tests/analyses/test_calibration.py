"""Calibration errors in closed form and against scikit-learn; a temperature that is known; the stage around them."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss
from small_run import SmallRun, classifier, refuses_on_a_full_disk

from mebm.analyses.calibration import bins_of, expected_error, fit_temperature, reliability, scores
from mebm.data.split import digests_of
from mebm.errors import MetricError
from stages import calibration


def two_class(confidence: np.ndarray) -> np.ndarray:
    """Logits of two classes with these probabilities of class 0."""
    confidence = np.asarray(confidence, np.float64)
    return np.log(np.stack([confidence, 1 - confidence], axis=1))


@pytest.fixture
def made():
    """Logits of 5 classes and labels drawn from the probabilities that they give: calibrated by construction."""
    random = np.random.default_rng(0)
    logits = random.normal(0, 2, (20_000, 5))
    gumbel = random.gumbel(size=logits.shape)
    return logits, (logits + gumbel).argmax(axis=1)


def test_bins_hold_their_upper_edge():
    """0.55 is 11 / 20: 20 * 0.55 is more than 11 in floating point, and still belongs below the edge."""
    edges = np.array([k / 20 for k in range(1, 21)])
    assert bins_of(edges, 20, False).tolist() == list(range(20))
    assert bins_of(np.nextafter(edges[:-1], 1), 20, False).tolist() == list(range(1, 20))
    assert bins_of(np.array([0.0, 0.55]), 20, False).tolist() == [0, 10]
    assert bins_of(np.array([0.15, 0.3, 0.7]), 10, False).tolist() == [1, 2, 6]


@pytest.mark.parametrize(("n", "n_bins"), [(40, 20), (41, 20), (7, 3), (5, 20)])
def test_adaptive_bins_hold_equally_many(n, n_bins):
    confidence = np.random.default_rng(0).random(n)
    index = bins_of(confidence, n_bins, True)
    counts = np.bincount(index, minlength=n_bins)
    assert counts.max() - counts.min() <= 1
    assert (np.diff(index[confidence.argsort()]) >= 0).all()


def test_one_bin_is_the_gap_between_confidence_and_accuracy():
    logits, labels = two_class([0.9, 0.8, 0.7, 0.6]), np.array([0, 0, 0, 1])
    for adaptive in (False, True):
        assert expected_error(logits, labels, 1, adaptive) == pytest.approx(abs(0.75 - 0.75), abs=1e-12)
        assert expected_error(logits, 1 - labels, 1, adaptive) == pytest.approx(0.75 - 0.25)


def test_two_bins_by_hand():
    logits, labels = two_class([0.95, 0.85, 0.65, 0.55]), np.array([0, 1, 0, 0])
    bins = reliability(logits, labels, 4)  # (0.5, 0.75] and (0.75, 1]
    assert bins["bin"].tolist() == [2, 3]
    assert bins["share"].tolist() == [0.5, 0.5]
    assert bins["confidence"] == pytest.approx([0.6, 0.9])
    assert bins["accuracy"].tolist() == [1.0, 0.5]
    assert expected_error(logits, labels, 4) == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    # ranks halve into the same groups
    assert expected_error(logits, labels, 2, adaptive=True) == pytest.approx(0.4)


def test_calibrated_probabilities_have_a_small_error(made):
    logits, labels = made
    assert expected_error(logits, labels, 20) < 0.015
    assert expected_error(logits, labels, 20, adaptive=True) < 0.015
    assert expected_error(3 * logits, labels, 20) > 0.1  # and over-confident ones a large one


def test_error_is_exactly_zero_where_every_bin_fits():
    logits = two_class(np.repeat([0.75, 0.5], 4))
    labels = np.array([0, 0, 0, 1, 0, 1, 0, 1])
    assert expected_error(logits, labels, 10) == pytest.approx(0, abs=1e-12)
    assert expected_error(logits, labels, 2, adaptive=True) == pytest.approx(0, abs=1e-12)


def test_error_does_not_depend_on_the_order_of_images(made):
    logits, labels = made[0][:300].round(), made[1][:300]  # rounded: many equal confidences
    order = np.random.default_rng(1).permutation(300)
    for adaptive in (False, True):
        first = expected_error(logits, labels, 20, adaptive)
        assert expected_error(logits[order], labels[order], 20, adaptive) == pytest.approx(first, abs=1e-12)


def test_scores_equal_scikit_learn(made):
    logits, labels = made[0][:500], made[1][:500]
    found = scores(logits, labels, 20)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert found["nll"] == pytest.approx(log_loss(labels, p), rel=1e-12)
    assert found["brier"] == pytest.approx(brier_score_loss(labels, p, scale_by_half=False), rel=1e-12)
    assert found["accuracy"] == (p.argmax(axis=1) == labels).mean()
    assert found["confidence"] == pytest.approx(p.max(axis=1).mean())


def test_brier_score_ranges_from_0_to_2():
    sure = np.array([[100.0, 0.0], [100.0, 0.0]])
    assert scores(sure, np.array([0, 0]), 10)["brier"] == pytest.approx(0, abs=1e-12)
    assert scores(sure, np.array([1, 1]), 10)["brier"] == pytest.approx(2)


def test_large_logits_do_not_overflow():
    found = scores(np.array([[1e4, 0.0], [0.0, 1e4]], np.float32), np.array([0, 0]), 20)
    assert found["nll"] == pytest.approx(5e3)
    assert found["ece"] == pytest.approx(0.5)


@pytest.mark.parametrize("factor", [0.2, 1.0, 5.0])
def test_temperature_undoes_a_known_factor(made, factor):
    logits, labels = made
    base = fit_temperature(logits, labels)
    assert base == pytest.approx(1, abs=0.03)
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * base, rel=1e-4)


def test_temperature_is_the_minimum(made):
    logits, labels = 2.5 * made[0][:400], made[1][:400]
    best = fit_temperature(logits, labels)

    def loss(temperature: float) -> float:
        return scores(logits / temperature, labels, 20)["nll"]

    assert loss(best) < min(loss(0.98 * best), loss(1.02 * best), loss(1.0))
    assert scores(logits / best, labels, 20)["accuracy"] == scores(logits, labels, 20)["accuracy"]


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.eye(3) * 5, [0, 1, 2], "every image is classified correctly"),
        (np.eye(3) * 5, [1, 2, 0], "no better than equal probabilities"),
        (np.zeros((4, 1)), [0, 0, 0, 0], "every image is classified correctly"),
    ],
)
def test_no_temperature_where_the_loss_has_no_minimum(logits, labels, message):
    with pytest.raises(MetricError, match=message):
        fit_temperature(logits, np.array(labels))


@pytest.mark.parametrize("function", [lambda *a: scores(*a, 20), lambda *a: reliability(*a, 20), fit_temperature])
@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (np.zeros((2, 3)), [0, 3], "labels from 0 to 3 do not fit 3 classes"),
        (np.zeros((2, 3)), [-1, 0], "labels from -1 to 0 do not fit"),
        (np.zeros((2, 3)), [0], "expected one for each image"),
        (np.zeros((0, 3)), [], "no images"),
        (np.array([[0.0, np.nan]]), [0], "not finite"),
    ],
)
def test_wrong_input_is_an_error(function, logits, labels, message):
    with pytest.raises(MetricError, match=message):
        function(logits, np.array(labels, int))


@pytest.fixture(scope="module")
def trained(digits):
    return classifier(digits)


@pytest.fixture
def labels(digits) -> torch.Tensor:
    """Of 200 images that the classifier was trained on; every tenth is made wrong, so that there are errors."""
    return torch.where(torch.arange(200) % 10 == 0, (digits.labels[:200] + 1) % 10, digits.labels[:200])


@pytest.fixture
def run(tmp_path, trained, digits, labels) -> SmallRun:
    run = SmallRun(tmp_path)
    run.write_checkpoint(trained, (1, 8, 8), 10, pyx_weight=1.0)
    run.write_images("test.npz", digits.images[:200], labels)
    return run


def test_stage_scores_other_images_than_it_fits_on(run, trained, digits, labels):
    assert run.call(calibration) == 0
    record = run.record()
    assert record["status"] == record["temperature_status"] == "ok"
    assert (record["n_images"], record["n_fitted"], record["n_scored"]) == (200, 100, 100)
    with torch.no_grad():
        logits = trained.logits(digits.images[:200].float() / 127.5 - 1).numpy()
    labels = labels.numpy()
    assert record["all"] == pytest.approx(scores(logits, labels, 20), abs=1e-4)
    scored, fitted = calibration.split(labels, digests_of(digits.images[:200].numpy()), 0.5, 0)
    assert not set(scored) & set(fitted)
    assert record["temperature"] == pytest.approx(fit_temperature(logits[fitted], labels[fitted]), rel=1e-3)
    assert record["before"] == pytest.approx(scores(logits[scored], labels[scored], 20), abs=1e-4)
    after = scores(logits[scored] / record["temperature"], labels[scored], 20)
    assert record["after"] == pytest.approx(after, abs=1e-4)
    assert {"checkpoint_sha256", "test_sha256", "seed", "bn_stats", "n_bins"} <= set(record)


def test_stage_twice_gives_equal_bytes(run):
    assert run.call(calibration, out="a") == run.call(calibration, out="b") == 0
    assert run.files("a") == run.files("b")
    assert set(run.files("a")) == {"metrics.json", "figures/reliability.svg"}


def test_stage_without_a_temperature_says_why(run, trained, digits):
    with torch.no_grad():
        predicted = trained.logits(digits.images[:200].float() / 127.5 - 1).argmax(dim=1)
    run.write_images("test.npz", digits.images[:200], predicted)
    assert run.call(calibration) == 0
    record = run.record()
    assert (record["status"], record["temperature"], record["after"]) == ("ok", None, None)
    assert "every image is classified correctly" in record["temperature_status"]
    assert record["all"]["accuracy"] == 1


def test_split_of_classes_with_one_image():
    labels = np.array([0, 0, 0, 0, 1])
    scored, fitted = calibration.split(labels, np.arange(5), 0.4, 0)
    assert sorted([*scored, *fitted]) == [0, 1, 2, 3, 4]
    assert len(fitted) == 2
    assert [len(part) for part in calibration.split(np.zeros(3, int), np.arange(3), 0.01, 0)] == [2, 1]
    assert [len(part) for part in calibration.split(np.zeros(1, int), np.arange(1), 0.5, 0)] == [1, 0]


def test_split_keeps_equal_images_together():
    labels, digests = np.arange(20) % 2, np.arange(20) // 4  # two of each class in a group
    for seed in range(5):
        scored, fitted = calibration.split(labels, digests, 0.4, seed)
        assert sorted([*scored, *fitted]) == list(range(20))
        assert len(fitted) == 8
        assert not set(digests[scored]) & set(digests[fitted])
    assert [len(part) for part in calibration.split(np.zeros(4, int), np.zeros(4), 0.5, 0)] == [4, 0]  # all equal


@pytest.mark.parametrize(
    ("pyx_weight", "n", "status"),
    [(0.0, 200, "no classifier: pyx_weight is 0"), (1.0, 0, "no held-out images: all train")],
)
def test_stage_without_a_classifier_or_images(run, trained, digits, pyx_weight, n, status):
    run.write_checkpoint(trained, (1, 8, 8), 10, pyx_weight=pyx_weight)
    run.write_images("test.npz", digits.images[:n], digits.labels[:n] if pyx_weight else None)
    assert run.call(calibration) == 0
    assert run.record()["status"] == status
    assert status in run.files()["figures/reliability.svg"].decode()


@pytest.mark.parametrize("wrong", [None, torch.arange(200) % 11])
def test_stage_with_labels_that_do_not_fit(run, digits, wrong, capsys):
    run.write_images("test.npz", digits.images[:200], wrong)
    assert run.call(calibration) == 1
    assert "error: the held-out images' labels do not fit a classifier of 10 classes" in capsys.readouterr().err
    assert run.files() == {}


def test_a_figure_that_fails_leaves_no_record(run, digits, monkeypatch, capsys):
    refuses_on_a_full_disk(run, calibration, digits, monkeypatch, capsys)
