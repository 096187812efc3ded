"""Metrics with closed-form answers, and that batch size and order do not matter."""

import math

import pytest
import smoke
import torch

from mebm.data.images import ImageSet
from mebm.errors import CheckpointError, DataError, MetricError
from mebm.files import write_json
from mebm.measure import metrics
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.features import extract, load_network, save_network
from mebm.measure.metrics import frechet_distance, inception_style_score, precision_recall
from mebm.measure.networks.classifier import train


def random_cov(seed: int, d: int = 6) -> torch.Tensor:
    root = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return root @ root.T


def test_equal_covariances_leave_the_squared_mean_distance():
    cov = random_cov(0)
    assert frechet_distance(torch.zeros(6), cov, torch.full((6,), 2.0), cov) == pytest.approx(24, abs=1e-6)


def test_equal_statistics_are_exactly_zero():
    assert frechet_distance(torch.ones(6), random_cov(0), torch.ones(6), random_cov(0)) == 0.0


def test_commuting_covariances_by_hand():
    a, b = torch.tensor([1.0, 4.0, 0.0]), torch.tensor([9.0, 1.0, 4.0])
    expected = float(((a.sqrt() - b.sqrt()) ** 2).sum())
    assert frechet_distance(torch.zeros(3), a.diag(), torch.zeros(3), b.diag()) == pytest.approx(expected, abs=1e-9)


def test_symmetric():
    mean, a, b = torch.zeros(6), random_cov(1), random_cov(2)
    assert frechet_distance(mean, a, mean, b) == pytest.approx(frechet_distance(mean, b, mean, a), rel=1e-9)


def test_statistics_that_do_not_compare():
    with pytest.raises(MetricError, match="do not compare"):
        frechet_distance(torch.zeros(6), random_cov(0), torch.zeros(5), random_cov(0, 5))
    with pytest.raises(MetricError, match="not finite"):
        frechet_distance(torch.zeros(6), random_cov(0), torch.full((6,), math.nan), random_cov(0))


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda cov: cov + torch.eye(6).roll(1, 1), "it is not symmetric"),
        (lambda cov: cov - 40 * torch.eye(6)[2].diag(), "it has an eigenvalue of -3"),
        (lambda cov: cov.fill_(1.0).fill_diagonal_(0.5), "it has an eigenvalue of -0.5, a negative variance"),
    ],
)
def test_a_matrix_that_is_no_covariance(change, fault):
    mean, cov, other = torch.zeros(6), random_cov(0), change(random_cov(0))
    for pair in ((cov, other), (other, cov), (other, other)):
        with pytest.raises(MetricError, match=f"hold a matrix that is no covariance: {fault}"):
            frechet_distance(mean, pair[0], mean, pair[1])


def test_rounding_makes_no_covariance_one_that_is_none():
    """Fewer rows than dimensions, in float32: eigenvalues that should be 0 are not, and some are negative."""
    rows = torch.randn(20, 60, generator=torch.Generator().manual_seed(0)) + 30
    cov = torch.cov(rows.T)
    assert float(torch.linalg.eigvalsh(cov.double())[0]) < -1e-7
    assert frechet_distance(rows.mean(0), cov, rows.mean(0) + 1, cov) == pytest.approx(60, rel=1e-3)


def rows(n: int, seed: int, d: int = 12) -> torch.Tensor:
    """Rows that stand for features: all positive, and not centred."""
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + 8


def test_a_perfect_set_has_all_precision_and_recall():
    real = rows(200, 0, 64)
    assert precision_recall(real, real, 3) == (1.0, 1.0)
    assert precision_recall(real, real[torch.randperm(200)], 1) == (1.0, 1.0)
    rounded = real * (1 + 1e-7 * torch.randn(200, 64, generator=torch.Generator().manual_seed(1)))
    assert not torch.equal(rounded, real)
    assert precision_recall(real, rounded, 3) == (1.0, 1.0)


@pytest.mark.parametrize(("rounding", "different"), [(0.0, 1), (1e-7, 1), (1e-7, 200)])
def test_a_collapsed_set_has_all_precision_and_no_recall(rounding, different):
    """All images are one image of the data: only that image is covered, also where its copies differ by rounding."""
    real = rows(200, 0, 64)
    noise = torch.randn(different, 64, generator=torch.Generator().manual_seed(1))
    copies = (real[7] * (1 + rounding * noise)).expand(200, 64)
    assert precision_recall(real, copies, 3) == (1.0, 1 / 200)
    assert precision_recall(real, copies + 0.01, 3) == (1.0, 0.0)  # near an image and on none
    assert precision_recall(real, copies + 100, 3) == (0.0, 0.0)


def test_a_set_without_half_of_the_modes_has_half_of_the_recall():
    real = torch.cat([rows(100, 0), rows(100, 1) + 50])
    assert precision_recall(real, real[:100], 3) == (1.0, 0.5)
    precision, recall = precision_recall(real, rows(200, 2), 3)  # new images of the first mode
    whole = precision_recall(real[:100], rows(200, 2), 3)
    assert (precision, recall) == (whole[0], pytest.approx(whole[1] / 2))
    # and the other way round: half of the images are of no mode
    assert precision_recall(real[:100], real, 3) == (0.5, 1.0)


def test_precision_and_recall_by_the_definition():
    real, generated = rows(60, 0, 3), 1.2 * rows(50, 1, 3) - 1.5

    def share(of: torch.Tensor, around: torch.Tensor) -> float:
        reach = [sorted(float((x - y).norm()) for y in around)[2 + 1] for x in around]  # the first one is x itself
        within = [any(float((x - y).norm()) <= r for y, r in zip(around, reach, strict=True)) for x in of]
        return sum(within) / len(of)

    expected = share(generated, real), share(real, generated)
    assert 0.1 < min(expected) <= max(expected) < 1
    assert precision_recall(real, generated, 3) == pytest.approx(expected)


@pytest.mark.parametrize("k", [1, 3, 10])
def test_precision_and_recall_equal_torch_fidelity(k, monkeypatch):
    from torch_fidelity.metric_prc import prc_features_to_metric

    real, generated = rows(300, 0), 0.8 * rows(220, 1) + 1.5
    theirs = prc_features_to_metric(generated, real, prc_neighborhood=k, save_cpu_ram=False, verbose=False)
    assert 0.05 < theirs["recall"] < theirs["precision"] < 1
    assert precision_recall(real, generated, k) == pytest.approx((theirs["precision"], theirs["recall"]))
    monkeypatch.setattr(metrics, "BLOCK", 1000)  # however many rows are compared at a time
    assert precision_recall(real, generated, k) == pytest.approx((theirs["precision"], theirs["recall"]))


def test_features_without_precision_and_recall():
    with pytest.raises(MetricError, match=r"among 3 images none has 3 others as neighbours; lower quality\.neighbours"):
        precision_recall(rows(9, 0), rows(3, 1), 3)
    with pytest.raises(MetricError, match="come from different networks"):
        precision_recall(rows(9, 0), rows(9, 1, 5), 3)
    for value in (math.nan, math.inf):
        broken = rows(9, 0)
        broken[4, 2] = value
        for pair in ((broken, rows(9, 1)), (rows(9, 1), broken)):
            with pytest.raises(MetricError, match="not finite"):
                precision_recall(*pair, 3)


def test_score_of_certain_and_of_ignorant_predictions():
    certain = 1000 * torch.eye(10).repeat(10, 1)
    assert inception_style_score(certain, 1)[0] == pytest.approx(10)
    assert inception_style_score(torch.zeros(100, 10), 10, 2020) == pytest.approx((1, 0))


def test_sorting_by_class_does_not_change_a_permuted_score_much():
    logits = 5 * torch.eye(10).repeat_interleave(100, 0)
    sorted_score = inception_style_score(logits, 10)[0]
    permuted = inception_style_score(logits, 10, 2020)[0]
    assert sorted_score == pytest.approx(1)
    assert permuted > 5


def test_too_few_images_or_bad_logits():
    with pytest.raises(MetricError, match="5 images cannot be split into 10"):
        inception_style_score(torch.zeros(5, 10), 10)
    with pytest.raises(MetricError, match="not finite"):
        inception_style_score(torch.full((20, 10), math.nan), 10)


def test_accuracy_and_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [0.0, math.log(3)]])
    accuracy, loss = accuracy_and_loss(logits, torch.tensor([1, 0]))
    assert accuracy == 0.5
    assert loss == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)


def test_a_record_never_holds_nan(tmp_path):
    with pytest.raises(MetricError, match="not finite"):
        write_json(tmp_path / "a.json", {"fcd": math.nan})
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def network(digits):
    return train(smoke.section("features", epochs=4, lr=5e-3), digits, torch.device("cpu"))


def test_the_feature_classifier_learns(digits, network):
    assert accuracy_and_loss(extract(network, digits.images, 500)[2], digits.labels)[0] > 0.8


def test_statistics_do_not_depend_on_batch_size(digits, network):
    small, large = (extract(network, digits.images, size) for size in (50, 1000))
    assert frechet_distance(*small[:2], *large[:2]) < 1e-6
    assert torch.allclose(small[1], large[1], atol=1e-5)


def test_a_batch_that_does_not_fit_into_memory_is_halved(digits, network):
    sizes = []

    def limited(_, inputs):
        sizes.append(len(inputs[0]))
        if len(inputs[0]) > 60:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate more")

    chosen = torch.tensor([199, 3])
    expected = extract(network, digits.images[:200], 50, chosen)
    hook = network.register_forward_pre_hook(limited)
    try:
        found = extract(network, digits.images[:200], 200, chosen)
    finally:
        hook.remove()
    assert sizes == [200, 100, 50, 50, 50, 50]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("message", ["out of memory", "shapes cannot be multiplied"])
def test_what_smaller_batches_do_not_mend_is_raised(digits, network, message):
    def broken(*_):
        raise RuntimeError(message)

    hook = network.register_forward_pre_hook(broken)
    try:
        with pytest.raises(RuntimeError, match=message):
            extract(network, digits.images[:20], 8)
    finally:
        hook.remove()


def test_features_of_chosen_images_are_theirs_in_that_order(digits, network):
    chosen = torch.tensor([700, 4, 1496, 3])
    with torch.no_grad():
        expected = network(digits.images[chosen])[0]
    for batch_size in (2, 500):
        *found, features = extract(network, digits.images, batch_size, chosen)
        assert torch.allclose(features, expected, atol=1e-5)
    assert (features.dtype, features.shape) == (torch.float32, (4, network.n_features))
    *without, none = extract(network, digits.images, 500)
    assert none.shape == (0, network.n_features)
    assert all(torch.equal(a, b) for a, b in zip(found, without, strict=True))


def test_statistics_are_the_mean_and_the_covariance_that_fid_is_defined_by(digits, network):
    """Divided by N - 1, as numpy.cov does, which the packages call."""
    with torch.no_grad():
        rows = network(digits.images[:40])[0].double()
    mean, cov, *_ = extract(network, digits.images[:40], 7)
    assert torch.allclose(mean, rows.mean(0), atol=1e-6)
    assert torch.allclose(cov, torch.cov(rows.T), rtol=1e-4, atol=1e-6)
    assert not torch.allclose(cov, torch.cov(rows.T, correction=0), rtol=1e-4, atol=1e-6)


def test_noise_is_further_from_the_data_than_data(digits, network):
    half = len(digits) // 2
    reference = extract(network, digits.images[:half], 500)[:2]
    real = extract(network, digits.images[half:], 500)[:2]
    noise = torch.randint(0, 256, digits.images.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    distances = [frechet_distance(*reference, *other) for other in (real, extract(network, noise, 500)[:2])]
    assert distances[1] > 10 * distances[0]


def test_network_round_trip_and_damage(digits, network, tmp_path):
    save_network(tmp_path / "a.pt", network)
    loaded = load_network(tmp_path / "a.pt")
    assert torch.equal(extract(loaded, digits.images, 500)[2], extract(network, digits.images, 500)[2])
    (tmp_path / "a.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"not a readable feature network \(it is damaged, .*\); give another"):
        load_network(tmp_path / "a.pt")


def test_a_checkpoint_is_no_feature_network(tmp_path):
    torch.save({"format": "mebm checkpoint"}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"give another file, or make it again with the features stage$"):
        load_network(tmp_path / "a.pt")


def test_without_labels_there_is_no_feature_classifier(digits, network):
    with pytest.raises(DataError, match="no labels"):
        train(None, ImageSet(digits.images, None), torch.device("cpu"))
