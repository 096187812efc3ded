"""Equal images are counted, and stay on one side of every split that is made here."""

import archives
import numpy as np
import pytest
import smoke
from sklearn.model_selection import train_test_split

from mebm.data.images import load_images
from mebm.data.prepare import prepare
from mebm.data.split import _closest, _with_equals, digests_of, split_stratified
from mebm.errors import DataError


def copies(n: int, n_classes: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels and digests of n images, of which some are equal, a few of these across classes."""
    labels = rng.integers(0, n_classes, n)
    digests = np.arange(n, dtype=np.uint64) + 1000
    for digest in range(n // 8):
        members = rng.choice(n, rng.integers(2, 5), replace=False)
        same = members if rng.random() < 0.1 else members[labels[members] == labels[members[0]]]
        digests[same] = digest
    return labels, digests


@pytest.mark.parametrize("labelled", [True, False])
def test_without_equal_images_the_split_is_that_of_scikit_learn(labelled):
    labels = np.random.default_rng(0).integers(0, 7, 500) if labelled else None
    digests = np.random.default_rng(1).permutation(500).astype(np.uint64)
    expected = train_test_split(np.arange(500), test_size=90, random_state=3, stratify=labels)
    for found in (split_stratified(labels, digests, 90, 3), _with_equals(*expected, labels, digests)):
        assert all(np.array_equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("n_classes", [0, 5])
def test_equal_images_stay_on_one_side(seed, n_classes):
    labels, digests = copies(400, n_classes or 1, np.random.default_rng(seed))
    labels = labels if n_classes else None
    kept, held_out = split_stratified(labels, digests, 60, seed)
    assert sorted([*kept, *held_out]) == list(range(400))
    assert not set(digests[kept]) & set(digests[held_out])
    assert len(held_out) == 60
    drawn_kept, drawn = train_test_split(np.arange(400), test_size=60, random_state=seed, stratify=labels)
    assert len(set(drawn) & set(held_out)) > 40  # little else has moved
    if n_classes:
        assert abs(np.bincount(labels[held_out], minlength=5) - np.bincount(labels[drawn], minlength=5)).max() <= 3
    again = split_stratified(labels, digests, 60, seed)
    assert np.array_equal(again[0], kept)
    assert np.array_equal(again[1], held_out)
    assert set(digests[drawn_kept]) & set(digests[drawn])  # as it would be otherwise


def test_classes_keep_their_numbers_where_single_images_make_them_up():
    labels = np.arange(300) % 3
    digests = np.where(np.arange(300) < 60, np.arange(300) // 6 * 3 + labels, np.arange(300) + 1000)  # pairs of a class
    kept, held_out = split_stratified(labels, digests, 30, 0)
    assert np.bincount(labels[held_out]).tolist() == [10, 10, 10]
    assert not set(digests[kept]) & set(digests[held_out])


def test_what_one_class_cannot_make_up_comes_from_the_next():
    labels, digests = np.arange(100) // 90, np.arange(100)
    digests[90:] = 1000 + np.arange(10) // 2  # a class of pairs, of which one image is drawn
    _, held_out = split_stratified(labels, digests, 10, 0)
    assert len(held_out) == 10
    assert np.bincount(labels[held_out], minlength=2).tolist() in ([10, 0], [8, 2])


@pytest.mark.parametrize(
    ("sizes", "wanted", "made"),
    [
        ([2, 2, 3], 5, 5),  # not by taking one after the other
        ([2, 2, 3], 4, 4),
        ([2, 2, 2], 3, 2),
        ([5, 1], 3, 1),
        ([4], 2, 0),  # one group stays where it is
        ([4, 4], 7, 4),
        ([1] * 10, 3, 3),
        ([7, 11, 13, 17], 30, 30),
        ([7, 11, 13, 17], 48, 41),  # at least one is left
    ],
)
def test_groups_make_up_a_number_where_it_can_be(sizes, wanted, made):
    sizes = np.array(sizes)
    taken = _closest(sizes, np.zeros(len(sizes)), wanted)
    assert len(set(taken)) == len(taken)
    assert sizes[taken].sum() == made


def test_digests_are_equal_for_equal_images():
    images = archives.pictures(50, 8)
    images[[7, 30]] = images[2]
    images[9] = images[3]
    images[9, 2, 7, 7] ^= 1
    digests = digests_of(images)
    assert digests.dtype == np.uint64
    assert digests[7] == digests[30] == digests[2]
    assert len(np.unique(digests)) == 48


# ---------------------------------------------------------------- of a folder


@pytest.fixture
def folder(tmp_path):
    """30 pictures in two classes, of which the first three also lie beside themselves under other names."""
    images = archives.pictures(30)
    path = archives.folder(tmp_path / "mine", images, 2)
    for i in range(3):
        (path / f"class_{i % 2}" / f"copy_{i}.bmp").write_bytes(archives.encode(images[i], "BMP"))
    return path


def made(folder, **changes):
    settings = {"source": "image_folder", "path": str(folder), "image_size": 16, "n_test": 10, **changes}
    manifest = prepare(smoke.section("dataset", **settings), "mine", folder.parent / "out")
    return *(load_images(folder.parent / "out" / f"{part}.npz") for part in ("train", "test")), manifest


def common(train, test) -> set[bytes]:
    return {image.tobytes() for image in train.images.numpy()} & {image.tobytes() for image in test.images.numpy()}


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("evaluate_on", ["test", "validation"])
def test_copies_in_a_folder_are_counted_and_never_on_both_sides(folder, seed, evaluate_on):
    train, test, manifest = made(folder, evaluate_on=evaluate_on, n_validation=6, seed=seed)
    assert not common(train, test)
    assert manifest["counts"] == {"train": 23 if evaluate_on == "test" else 17, "test": len(test)}
    assert len(test) == (10 if evaluate_on == "test" else 6)
    counts = manifest["duplicates"]
    assert (counts["across"], counts["other_label"]) == (0, 0)
    equal = sum(len(part) - len({image.tobytes() for image in part.images.numpy()}) for part in (train, test))
    assert counts["train"] + counts["test"] == equal
    assert equal == 3 or evaluate_on == "validation"


def test_copies_with_another_label_are_counted(folder):
    for i in range(2):
        path = folder / f"class_{i}" / f"0000{i}.png"
        (folder / f"class_{1 - i}" / f"other_{i}.png").write_bytes(path.read_bytes())
    train, test, manifest = made(folder)
    assert manifest["duplicates"]["other_label"] == 6  # twice the picture, its copy, and the one in the other class
    assert not common(train, test)


def test_the_folders_own_split_is_kept_and_copies_across_it_are_counted(tmp_path):
    images = archives.pictures(20)
    archives.folder(tmp_path / "mine" / "train", images[[*range(12), 3]])
    archives.folder(tmp_path / "mine" / "test", images[[*range(10, 20), 19, 19]])
    train, test, manifest = made(tmp_path / "mine")
    assert manifest["counts"] == {"train": 13, "test": 12}
    assert manifest["duplicates"] == {"train": 1, "test": 2, "across": 2, "other_label": 0}
    assert len(common(train, test)) == 2


def test_a_number_that_copies_cannot_make_up_is_refused(tmp_path):
    archives.folder(tmp_path / "mine", archives.pictures(10).repeat(2, 0))
    with pytest.raises(
        DataError, match=r"dataset\.n_test: 5 of these 20 images cannot .* set it to 4, or remove copies"
    ):
        made(tmp_path / "mine", n_test=5)
    assert not list((tmp_path / "out").iterdir())
    train, test, manifest = made(tmp_path / "mine", n_test=4)
    assert (len(train), len(test)) == (16, 4)
    assert not common(train, test)
    assert manifest["duplicates"] == {"train": 8, "test": 2, "across": 0, "other_label": 0}
