"""What a record of quality says of the network and the reference, by which it is to be judged."""

from pathlib import Path

import pytest
import smoke
import torch

from mebm.data.archives import save_images
from mebm.data.images import ImageSet
from mebm.files import sha256, write_npz
from mebm.measure.features import extract, save_network
from mebm.measure.networks.classifier import make
from mebm.measure.quality import QualityMeter


def meter(folder: Path, digits: ImageSet, count: int, **settings) -> QualityMeter:
    """A meter by a classifier that the stage's own function makes, with a reference of so many images (0: a file)."""
    for name, part in (("train", slice(0, 1200)), ("test", slice(1200, None))):
        save_images(folder / f"{name}.npz", digits.images[part].numpy(), digits.labels[part].numpy())
    wanted = smoke.section("features", **settings)
    network, record = make(wanted, folder / "train.npz", folder / "test.npz", torch.device("cpu"), 500)
    assert network.accuracy == record["accuracy"]
    save_network(folder / "features.pt", network)
    mu, sigma, *_ = extract(network, digits.images[:1200], 500)
    arrays = {"mu": mu.numpy(), "sigma": sigma.numpy(), "count": count, "shape": [1, 8, 8]}
    arrays |= {"preprocessing": "classifier", "features_sha256": sha256(folder / "features.pt")}
    write_npz(folder / "reference.npz", **arrays)
    return QualityMeter(folder / "features.pt", folder / "reference.npz", torch.device("cpu"), 500)


@pytest.mark.parametrize(("settings", "low"), [({"width": 16, "epochs": 6}, False), ({"width": 2, "epochs": 1}, True)])
def test_the_classifiers_accuracy_travels_with_its_distance(tmp_path, digits, settings, low):
    found = meter(tmp_path, digits, 1200, **settings)
    record = found.measure(digits.images[1200:], 10, 2020)
    assert record["features_accuracy"] == found.network.accuracy
    assert (record["features_accuracy"] < 0.9) == low
    warning = f"right on {100 * record['features_accuracy']:.1f} % of held-out images, less than 90 %: what fcd says"
    assert (warning in (record["features_warning"] or "")) == low
    assert (record["features_warning"] is None) == (not low)
    assert record["warning"] is None  # of few images
    assert (record["reference_split"], record["n_reference"]) == ("train", 1200)


def test_of_statistics_from_elsewhere_the_split_is_not_known(tmp_path, digits):
    record = meter(tmp_path, digits, 0, width=2, epochs=1).measure(digits.images, 10, 2020)
    assert (record["reference_split"], record["n_reference"]) == (None, None)
