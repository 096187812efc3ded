"""Closest training images: the exact search, what its distances are compared with, and the stage."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from sklearn.neighbors import NearestNeighbors

from mebm.analyses.neighbours import CHUNK, compare, mosaic, nearest, pixel_chunks
from mebm.data.archives import save_images
from mebm.data.images import bytes_to_unit
from mebm.errors import MetricError
from mebm.measure.features import extract, save_network, stream
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.method.energy import build_model
from mebm.training.checkpoint import Checkpoint, save_checkpoint
from stages import neighbours

ARCHITECTURE = {"depth": 10, "width": 1, "head": "energy", "norm": "batch", "dropout": 0.0}


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_the_search_agrees_with_scikit_learn(chunk):
    queries, rows = random(9, 12), random(108, 12)[8:]
    search = NearestNeighbors(n_neighbors=5, algorithm="brute").fit(rows.double())
    expected, positions = search.kneighbors(queries.double())
    distances, found = nearest(queries, rows.split(chunk), 5)
    np.testing.assert_allclose(distances, expected, rtol=1e-12)
    assert found.tolist() == positions.tolist()


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_leaving_one_out_agrees_with_scikit_learn(chunk):
    rows, picked = random(100, 12), torch.tensor([3, 99, 50])
    expected, positions = NearestNeighbors(n_neighbors=2, algorithm="brute").fit(rows.double()).kneighbors()
    distances, found = nearest(rows[picked], rows.split(chunk), 2, own=picked)
    np.testing.assert_allclose(distances, expected[picked], rtol=1e-12)
    assert found.tolist() == positions[picked].tolist()


@pytest.mark.parametrize("chunk", [1, 3, 40])
def test_bytes_are_exact_and_equal_distances_keep_the_order_of_the_rows(chunk):
    once = torch.randint(0, 256, (10, 3072), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = once.repeat(4, 1)
    distances, found = nearest(once, rows.split(chunk), 5)
    assert (distances[:, :4] == 0).all()
    assert found[:, :4].tolist() == [[i, i + 10, i + 20, i + 30] for i in range(10)]
    difference = once[0].long() - once[found[0, 4] % 10].long()
    assert float(distances[0, 4]) == float(difference.square().sum()) ** 0.5
    # one is left out, not what equals it
    assert nearest(once[:1], rows.split(chunk), 1, own=torch.tensor([10]))[1].item() == 0
    assert nearest(once[:1], rows.split(chunk), 1, own=torch.tensor([0]))[1].item() == 10


def test_what_has_no_neighbours_is_said():
    with pytest.raises(MetricError, match="5 neighbours were asked for, but there are 4 images"):
        nearest(random(2, 3), [random(4, 3)], 5)
    with pytest.raises(MetricError, match="4 neighbours"):
        nearest(random(1, 3), [random(4, 3)], 4, own=torch.tensor([0]))
    with pytest.raises(MetricError, match="not finite"):
        nearest(random(2, 3), [random(4, 3), torch.full((1, 3), torch.nan)], 1)


def test_pixels_come_in_small_chunks_of_bytes():
    images = torch.arange(50, dtype=torch.uint8).expand(3, 256, 256, 50).permute(3, 0, 1, 2)  # takes no memory
    chunks = [(len(chunk), chunk.numel(), chunk.dtype) for chunk in pixel_chunks(images, 10)]
    assert sum(n for n, _, _ in chunks) == 50
    assert max(size for _, size, _ in chunks) <= CHUNK
    assert {kind for _, _, kind in chunks} == {torch.uint8}
    assert max(len(chunk) for chunk in pixel_chunks(images[:, :, :2, :2], CHUNK // 20)) == 20
    assert torch.cat([chunk[:, 0] for chunk in pixel_chunks(images[:, :, :2, :2], 1)]).tolist() == list(range(50))


def test_streamed_features_are_those_of_the_statistics(digits):
    network = FeatureClassifier(1, 10, 4).eval()
    parts = list(stream(network, digits.images[:70], 30))
    mean, _, logits, _ = extract(network, digits.images[:70], 30)
    assert [len(features) for features, _ in parts] == [30, 30, 10]
    assert torch.allclose(torch.cat([features for features, _ in parts]).double().mean(0), mean)
    assert torch.equal(torch.cat([part for _, part in parts]), logits)
    assert not any(tensor.requires_grad for part in parts for tensor in part)


def test_copies_are_counted_against_the_first_percent_of_the_references():
    record = compare(torch.tensor([1.0, 2.0, 6.0]), torch.arange(1.0, 102.0))
    assert record["samples"] == {"mean": 3.0, "median": 2.0, "smallest": 1.0}
    assert record["references"] == {"mean": 51.0, "median": 51.0, "smallest": 1.0, "quantile_1": 2.0}
    assert record["copies"] == 1  # 2.0 is not closer than 2.0


def test_images_stand_in_the_picture_where_it_says():
    images = torch.randint(0, 255, (3, 4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).byte()
    picture, corners, side = mosaic(images)
    assert (side, corners.shape) == (8, (3, 4, 2))
    for row, line in zip(images, corners, strict=True):
        for image, (x, y) in zip(row, line, strict=True):
            assert (picture[y : y + 8, x : x + 8] == image.permute(1, 2, 0).numpy()).all()
    assert (picture < 255).sum() == 3 * images.numel()  # white elsewhere
    large = torch.full((1, 2, 3, 128, 128), 7, dtype=torch.uint8)
    assert mosaic(large)[2] == 32
    assert mosaic(large[..., :63, :63])[2] == 31


@pytest.fixture
def run(digits, tmp_path, smoke_params):
    """Runs the stage for chains in bytes on 200 digits; returns its exit status and the folder that it wrote."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke_params))
    torch.manual_seed(0)
    model = build_model((1, 8, 8), 10, **ARCHITECTURE)
    save_network(tmp_path / "features.pt", FeatureClassifier(1, 10, 4).eval())
    save_images(tmp_path / "train.npz", digits.images[:200].numpy())  # without labels: none are needed

    def call(chains: torch.Tensor, out: str, *more: str) -> tuple[int, Path]:
        checkpoint = Checkpoint(model, bytes_to_unit(chains), ARCHITECTURE, (1, 8, 8), 10, 1)
        save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
        paths = {
            "params": "params.yaml",
            "checkpoint": "checkpoint.pt",
            "train": "train.npz",
            "features": "features.pt",
        }
        paths |= {"logs": "logs", "out": out}
        words = [word for name, path in paths.items() for word in (f"--{name}", str(tmp_path / path))]
        return neighbours.main(["--run", "mebm", *words, *more]), tmp_path / out

    return call


def test_a_buffer_of_training_images_is_all_copies(run, digits):
    status, folder = run(digits.images[:60], "copied")
    record = json.loads((folder / "metrics.json").read_text())
    assert (status, record["status"], record["n_samples"], record["n_train"]) == (0, "ok", 20, 200)
    assert record["n_references"] == 200  # all that there are
    assert record["pixels"]["copies"] == record["features"]["copies"] == 20
    assert record["pixels"]["samples"] == {"mean": 0.0, "median": 0.0, "smallest": 0.0}
    assert record["features"]["samples"]["mean"] < 1e-5 < record["features"]["references"]["smallest"]
    for name in ("pixels", "features"):
        picture = (folder / "figures" / f"{name}.svg").read_text()
        assert len(picture) < 500_000
        assert "image-rendering" in picture  # pixels stay squares
        assert picture.count("<image") == 1
        assert picture.count("#d62728") >= 20  # the distances that are below the references' are red


def test_references_are_distances_of_images_in_0_to_1(run, digits):
    record = json.loads((run(digits.images[300:310], "true")[1] / "metrics.json").read_text())
    rows = digits.images.flatten(1).double() / 255
    to_others = NearestNeighbors(n_neighbors=1).fit(rows[:200]).kneighbors()[0]
    of_samples = NearestNeighbors(n_neighbors=1).fit(rows[:200]).kneighbors(rows[300:310])[0]
    found = record["pixels"]
    assert found["references"]["median"] == pytest.approx(np.median(to_others))
    assert found["references"]["quantile_1"] == pytest.approx(np.quantile(to_others, 0.01))
    assert found["samples"]["mean"] == pytest.approx(of_samples.mean())
    assert found["copies"] == (of_samples < np.quantile(to_others, 0.01)).sum()


def test_the_seed_decides_everything(run, digits):
    chains = digits.images[300:360]
    folders = [run(chains, str(i), "--seed", seed)[1] for i, seed in enumerate(("3", "3", "4"))]
    files = [{path.name: path.read_bytes() for path in folder.rglob("[!.]*.*")} for folder in folders]
    assert set(files[0]) == {"metrics.json", "pixels.svg", "features.svg"}
    assert files[0] == files[1]
    assert all(files[0][name] != files[2][name] for name in files[0])


def test_wrong_inputs_end_in_one_line(run, digits, tmp_path, capsys):
    assert run(digits.images[:20], "x", "--n-neighbours", "200")[0] == 2
    assert "neighbours.n_neighbours: is 200, expected less than the 200 training images" in capsys.readouterr().err
    save_network(tmp_path / "colour.pt", FeatureClassifier(3, 10, 4).eval())
    assert run(digits.images[:20], "x", "--features", str(tmp_path / "colour.pt"))[0] == 1
    assert "colour.pt: is for other images than" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()


def test_features_that_are_not_finite_leave_nothing(run, digits, tmp_path, capsys):
    network = FeatureClassifier(1, 10, 4).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(torch.nan)
    save_network(tmp_path / "nan.pt", network)
    status, folder = run(digits.images[:20], "x", "--features", str(tmp_path / "nan.pt"))
    assert status == 1
    assert "not finite, so they have no distance" in capsys.readouterr().err
    assert not folder.exists()
