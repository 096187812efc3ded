"""The record of a set's quality: precision and recall of equal numbers, and references that cannot be used."""

import numpy as np
import pytest
import torch

from mebm.errors import DataError, MetricError
from mebm.files import sha256, write_npz
from mebm.measure.features import extract, save_network
from mebm.measure.metrics import precision_recall
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.measure.quality import QualityMeter


@pytest.fixture(scope="module")
def network() -> FeatureClassifier:
    torch.manual_seed(0)
    return FeatureClassifier(1, 10, 4).eval()


@pytest.fixture
def meter(tmp_path, digits, network):
    """Makes a meter whose reference is that of 400 digits with changes, None leaves an array out."""

    def make(**changes: np.ndarray | None) -> QualityMeter:
        save_network(tmp_path / "features.pt", network)
        mu, sigma, _, features = extract(network, digits.images[:400], 100, torch.arange(400).flip(0))
        arrays = {"mu": mu.numpy(), "sigma": sigma.numpy(), "count": np.int64(400), "shape": np.array([1, 8, 8])}
        arrays |= {"preprocessing": np.array("classifier"), "features": features.numpy()}
        arrays |= {"features_sha256": np.array(sha256(tmp_path / "features.pt"))} | changes
        kept = {name: array for name, array in arrays.items() if array is not None}
        write_npz(tmp_path / "reference.npz", **kept)
        return QualityMeter(tmp_path / "features.pt", tmp_path / "reference.npz", torch.device("cpu"), 100)

    return make


def measured(meter: QualityMeter, images: torch.Tensor, k: int = 3) -> dict:
    return meter.measure(images, 2, 2020, k)


def test_perfect_and_collapsed_sets(meter, digits):
    """Of images: the data themselves, in another order; one of them again and again; and noise."""
    real, meter = digits.images[:400], meter()
    perfect = measured(meter, real[torch.randperm(400)])
    assert (perfect["precision"], perfect["recall"], perfect["precision_status"]) == (1.0, 1.0, "ok")
    assert (perfect["neighbours"], perfect["n_features"]) == (3, 400)
    collapsed = measured(meter, real[:1].repeat(400, 1, 1, 1))
    assert (collapsed["precision"], collapsed["recall"]) == (1.0, 1 / 400)
    noise = torch.randint(0, 256, real.shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    other = measured(meter, digits.images[400:800])
    assert measured(meter, noise)["precision"] < 0.3 < 0.6 < min(other["precision"], other["recall"]) < 1


def test_equal_numbers_of_images_and_of_reference_features(meter, digits, network):
    """Of fewer images the first reference features; of more images a random part, not the first of them."""
    meter, generated = meter(), digits.images[400:]
    reference = meter.features
    few = measured(meter, generated[:90])
    with torch.no_grad():
        assert few["n_features"] == 90
        assert (few["precision"], few["recall"]) == precision_recall(reference[:90], network(generated[:90])[0], 3)
        part = np.random.RandomState(2020).permutation(len(generated))[:400]
        expected = precision_recall(reference, network(generated[torch.from_numpy(part)])[0], 3)
    many = measured(meter, generated)
    assert (many["precision"], many["recall"], many["n_features"]) == (*expected, 400)
    assert many["n_images"] == len(generated) > 400


def test_no_precision_where_it_is_not_asked_for_or_cannot_be(meter, digits):
    images = digits.images[400:500]
    assert "precision" not in meter().measure(images, 2, 2020)
    few = measured(meter(), images[:3])
    assert (few["precision"], few["recall"], few["n_features"]) == (None, None, 3)
    assert few["precision_status"] == "3 images are too few for 3 neighbours (quality.neighbours)"
    elsewhere = measured(meter(features=None, count=np.int64(0)), images)
    assert (elsewhere["precision"], elsewhere["recall"]) == (None, None)
    assert elsewhere["precision_status"] == "the reference file holds no features of single images"
    assert elsewhere["fcd"] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": np.triu(np.ones((8, 8)))}, "sigma is no covariance matrix: it is not symmetric"),
        ({"sigma": -np.eye(8)}, "sigma is no covariance matrix: it has an eigenvalue of -1"),
        ({"sigma": np.ones((8, 8)) - 0.5 * np.eye(8)}, "sigma is no covariance matrix: it has an eigenvalue of -0.5"),
        ({"sigma": np.full((8, 8), np.nan)}, "sigma holds values that are not finite"),
        ({"features": np.full((9, 8), np.nan, np.float32)}, "features holds values that are not finite"),
        ({"features": np.ones((9, 7), np.float32)}, r"features is float32 \[9, 7\], expected numbers \[N, 8\]"),
    ],
)
def test_a_reference_that_cannot_be(meter, changes, message):
    with pytest.raises(DataError, match=rf"reference\.npz: {message}"):
        meter(**changes)


def test_features_that_are_not_finite(meter, digits):
    meter = meter()
    with torch.no_grad():
        meter.network.head.bias[0] = torch.nan  # features stay finite, class logits do not
    with pytest.raises(MetricError, match="class logits of the feature network are not finite"):
        meter.measure(digits.images[:5], 10, 2020, 3, few=True)
    with torch.no_grad():
        meter.network.layers[0][0].weight.fill_(torch.nan)
    with pytest.raises(MetricError, match="not finite"):
        measured(meter, digits.images[:50])
