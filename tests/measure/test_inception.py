"""FID and Inception score: the same as the packages that define them, from verified weights only.

The published weights cannot be part of a repository, so the network has random ones in the true file format: equalities
hold for any weights.
"""

import subprocess
import sys

import archives
import numpy as np
import pytest
import smoke
import torch

from mebm.data.images import bytes_to_unit, unit_to_bytes
from mebm.errors import CheckpointError, DataError
from mebm.files import sha256, write_npz
from mebm.measure.features import extract, load_network, read_statistics, save_network
from mebm.measure.metrics import frechet_distance, inception_style_score
from mebm.measure.networks.inception import InceptionFeatures, read_weights, tf1_resize
from mebm.measure.quality import QualityMeter

IMAGES = torch.from_numpy(archives.pictures(8))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return archives.inception_weights(tmp_path_factory.mktemp("weights"))


def settings(path, **changes):
    """Features settings that take the file at `path`, by the hash in its name."""
    digits = path.stem.rsplit("-", 1)[1] if path else "6726825d"
    name = str(path) if path else None
    return smoke.section("features", **{"network": "inception", "weights": name, "weights_sha256": digits, **changes})


@pytest.fixture(scope="module")
def network(weights) -> InceptionFeatures:
    state, weights_sha256 = read_weights(settings(weights))
    return InceptionFeatures(state, "tf1", weights_sha256)


def test_the_network_has_the_published_566_tensors(weights):
    assert len(torch.load(weights, weights_only=True)) == 566


def test_features_and_logits_equal_torch_fidelity_bit_for_bit(network, weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    theirs = FeatureExtractorInceptionV3("i", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(weights))
    features, logits = theirs(IMAGES[:4])
    ours = network(IMAGES[:4])
    assert features.std() > 0.01
    assert torch.equal(ours[0], features)
    assert torch.equal(ours[1], logits)


def test_the_other_preprocessing_equals_pytorch_fid(network, weights, monkeypatch):
    import pytorch_fid.inception

    state = torch.load(weights, weights_only=True)
    monkeypatch.setattr(pytorch_fid.inception, "load_state_dict_from_url", lambda *_, **__: state)
    theirs = pytorch_fid.inception.InceptionV3([3]).eval()
    with torch.no_grad():
        expected = theirs(IMAGES[:4].float() / 255)[0].flatten(1)
    ours = InceptionFeatures(state, "pytorch_fid")(IMAGES[:4])[0]
    assert torch.allclose(ours, expected, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(network(IMAGES[:4])[0], expected, rtol=1e-2)  # the two never mix


def test_resize_by_hand():
    ramp = torch.tensor([0.0, 1.0, 2.0, 3.0]).expand(1, 1, 4, 4)
    expected = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.0])  # no half-pixel offset: the last one repeats
    assert torch.allclose(tf1_resize(ramp, 8)[0, 0, 0], expected)


def test_score_equals_torch_fidelity():
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = 4 * torch.randn(503, 1008, generator=torch.Generator().manual_seed(0))
    theirs = isc_features_to_metric(logits)
    ours = inception_style_score(logits, 10, 2020)
    assert ours[0] == pytest.approx(theirs["inception_score_mean"], rel=1e-12)
    assert ours[1] == pytest.approx(theirs["inception_score_std"], rel=1e-10)


def feature_rows(n: int, seed: int, d: int = 96) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing * 0.3 + 0.1 * seed


@pytest.mark.parametrize("n", [400, 60])
def test_distance_equals_the_packages(n):
    """1e-7 relative at full rank; 1e-4 with fewer rows than dimensions, where the packages themselves are inexact."""
    from pytorch_fid.fid_score import calculate_frechet_distance
    from torch_fidelity.metric_fid import fid_statistics_to_metric

    statistics = []
    for rows in (feature_rows(500, 0), feature_rows(n, 1)):
        statistics.append((rows.mean(0).numpy(), np.cov(rows.numpy(), rowvar=False)))
    ours = frechet_distance(*(torch.from_numpy(array) for pair in statistics for array in pair))
    named = [{"mu": mu, "sigma": sigma} for mu, sigma in statistics]
    tolerance = 1e-7 if n > 96 else 1e-4
    assert ours == pytest.approx(fid_statistics_to_metric(*named, False)["frechet_inception_distance"], rel=tolerance)
    theirs = calculate_frechet_distance(*statistics[0], *statistics[1])
    assert ours == pytest.approx(theirs, rel=tolerance)


def test_metrics_need_no_scipy():
    script = "import sys; import mebm.measure.quality; print('scipy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], cwd=smoke.ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_batch_size_does_not_matter(network):
    small, large = extract(network, IMAGES, 3), extract(network, IMAGES, 8)
    assert torch.allclose(small[0], large[0], rtol=1e-4, atol=1e-5)
    assert frechet_distance(*small[:2], *large[:2]) < 1e-5 * float(large[1].trace())


@pytest.mark.more
def test_real_images_through_the_export_path_are_at_distance_zero(network, weights, tmp_path):
    save_network(tmp_path / "features.pt", network)
    mu, sigma, *_ = extract(network, IMAGES, 8)
    reference = {"mu": mu.numpy(), "sigma": sigma.numpy(), "count": np.int64(8), "shape": np.array([3, 32, 32])}
    hashes = {"preprocessing": np.array("tf1"), "features_sha256": np.array(sha256(tmp_path / "features.pt"))}
    write_npz(tmp_path / "reference.npz", **reference, **hashes)
    meter = QualityMeter(tmp_path / "features.pt", tmp_path / "reference.npz", torch.device("cpu"), 8)
    record = meter.measure(unit_to_bytes(bytes_to_unit(IMAGES)), 2, 2020)
    assert record["fid"] == 0.0
    assert record["is_mean"] >= 1
    assert "8 images do not fill 2048 dimensions" in record["warning"]
    assert (record["preprocessing"], record["weights_sha256"]) == ("tf1", sha256(weights))
    other = meter.measure(255 - IMAGES, 2, 2020)
    assert np.isfinite(other["fid"])
    assert other["fid"] > 0


def test_grey_images_are_repeated_over_channels(network):
    grey = IMAGES[:2, :1]
    assert torch.equal(network(grey)[0], network(grey.expand(-1, 3, -1, -1))[0])


def test_statistics_are_interchangeable_with_pytorch_fid(network, weights, tmp_path):
    from pytorch_fid.fid_score import compute_statistics_of_path

    mu, sigma = np.zeros(2048), np.eye(2048)
    np.savez(tmp_path / "theirs.npz", mu=mu, sigma=sigma)
    native = InceptionFeatures(read_weights(settings(weights))[0], "pytorch_fid")
    assert torch.equal(read_statistics(tmp_path / "theirs.npz", native)[1], torch.eye(2048, dtype=torch.float64))
    with pytest.raises(DataError, match="preprocessing pytorch_fid, but the features use tf1"):
        read_statistics(tmp_path / "theirs.npz", network)
    write_npz(tmp_path / "ours.npz", mu=mu, sigma=sigma, preprocessing=np.array("tf1"))
    read = compute_statistics_of_path(str(tmp_path / "ours.npz"), None, None, None, None)
    assert np.array_equal(read[1], sigma)
    np.savez(tmp_path / "small.npz", mu=mu[:64], sigma=sigma[:64, :64])
    with pytest.raises(DataError, match="64"):
        read_statistics(tmp_path / "small.npz", native)


def test_round_trip_of_the_network_file(network, weights, tmp_path):
    save_network(tmp_path / "a.pt", network)
    loaded = load_network(tmp_path / "a.pt")
    assert loaded.preprocessing == "tf1"
    assert torch.equal(loaded(IMAGES[:2])[0], network(IMAGES[:2])[0])


def test_a_wrong_weight_file_is_refused(weights, tmp_path):
    wrong = tmp_path / weights.name
    wrong.write_bytes(weights.read_bytes()[:-100] + bytes(100))
    with pytest.raises(DataError, match=r"has sha256 .* expected"):
        read_weights(settings(wrong))
    torch.save({"fc.weight": torch.zeros(3)}, tmp_path / "other.pth")
    named = (tmp_path / "other.pth").rename(tmp_path / f"x-{sha256(tmp_path / 'other.pth')[:8]}.pth")
    with pytest.raises(CheckpointError, match="not Inception's weights"):
        InceptionFeatures(read_weights(settings(named))[0], "tf1")


def test_weights_are_found_in_the_cache_and_missing_ones_say_where_to_put_them(weights, tmp_path, monkeypatch):
    import pytorch_fid.inception

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(pytorch_fid.inception, "FID_WEIGHTS_URL", f"http://127.0.0.1:9/{weights.name}")
    by_cache = settings(None, weights_sha256=weights.stem.rsplit("-", 1)[1])
    cache = tmp_path / "hub" / "checkpoints"
    with pytest.raises(DataError, match="could not be downloaded") as error:
        read_weights(by_cache)
    assert f"at {cache / weights.name} by hand" in str(error.value)
    assert not list(cache.iterdir())
    (cache / weights.name).symlink_to(weights)
    assert read_weights(by_cache)[1] == sha256(weights)
    # torch-fidelity's copy of the same tensors has a name of its own
    (cache / weights.name).rename(cache / weights.name.replace("pt_inception", "weights-inception"))
    assert read_weights(by_cache)[1] == sha256(weights)
