"""Every public format comes out as the images that went in; wrong files are named, and nothing in them is executed."""

import os
import pickle

import archives
import numpy as np
import pytest
import smoke

from mebm.data import load_images
from mebm.datasets import prepare
from mebm.errors import DataError
from mebm.files import sha256
from mebm.params import PUBLISHED_COUNTS
from mebm.sources import remote_files
from mebm.unpickle import load_batch

TRAIN, TEST = archives.pictures(20), archives.pictures(10, seed=1)


@pytest.fixture
def made(tmp_path):
    """Prepare a set whose files lie in `downloads`, taking their own checksums as the published ones."""

    def made(source: str, n_source: int | None = 20, **changes):
        downloads = tmp_path / "downloads"
        sums = {path.name: f"sha256:{sha256(path)}" for path in downloads.iterdir() if path.is_file()}
        settings = {"source": source, "downloads": str(downloads), "checksums": sums, "image_size": 32, "n_test": 5}
        section = smoke.section("dataset", **{**settings, "n_source": n_source, **changes})
        out = tmp_path / "out"
        manifest = prepare(section, "x", out)
        assert sorted(path.name for path in out.iterdir()) == ["manifest.json", "test.npz", "train.npz"]
        return load_images(out / "train.npz"), load_images(out / "test.npz", allow_empty=True), manifest

    (tmp_path / "downloads").mkdir()
    return made


@pytest.mark.parametrize("fine", [False, True])
def test_cifar(made, tmp_path, fine):
    name = "cifar-100-python.tar.gz" if fine else "cifar-10-python.tar.gz"
    path = archives.cifar(tmp_path / "downloads" / name, TRAIN, TEST, 10, fine)
    train, test, manifest = made("cifar100" if fine else "cifar10")
    assert np.array_equal(train.images.numpy(), TRAIN)
    assert np.array_equal(test.images.numpy(), TEST)
    if fine:
        assert train.labels.tolist() == archives.labels_of(20, 10)
    else:
        assert train.labels.tolist() == archives.labels_of(4, 10) * 5
    assert manifest["labels"][3] == "class 3"
    assert train.n_classes == (100 if fine else 10)  # although no image is of the last ones
    assert manifest["files_sha256"] == {name: sha256(path)}
    assert manifest["counts"] == {"train": 20, "test": 10}
    assert manifest["shape"] == [3, 32, 32]


def test_svhn_has_the_digit_0(made, tmp_path):
    for part, images in (("train", TRAIN), ("test", TEST)):
        archives.svhn(tmp_path / "downloads" / f"{part}_32x32.mat", images)
    train, test, _ = made("svhn")
    assert np.array_equal(train.images.numpy(), TRAIN)
    assert train.labels.tolist() == archives.labels_of(20, 10)
    assert np.array_equal(test.images.numpy(), TEST)


def test_tiny_imagenet(made, tmp_path):
    train_images = archives.pictures(6, 64)
    archives.tiny_imagenet(tmp_path / "downloads" / "tiny-imagenet-200.zip", train_images, archives.pictures(4, 64, 1))
    train, test, manifest = made("tiny_imagenet", n_source=6, image_size=64)
    assert sorted(train.labels.tolist()) == [0, 0, 0, 1, 1, 1]
    assert len(test) == 4
    assert manifest["labels"] == ["thing n00000000", "thing n00000001"]
    found = train.images.numpy().astype(int)
    assert any((abs(found - image).mean(axis=(1, 2, 3)) < 6).any() for image in train_images[1:].astype(int))
    grey = [image for image in found if (image[0] == image[1]).all() and (image[0] == image[2]).all()]
    assert len(grey) == 1


@pytest.mark.parametrize("layout", ["pickle", "npz"])
def test_imagenet32_both_layouts(made, tmp_path, layout):
    archives.imagenet32(tmp_path / "downloads", TRAIN, TEST, layout)
    train, test, manifest = made("imagenet32")
    assert np.array_equal(train.images.numpy(), TRAIN)  # batch 2 before batch 10
    assert train.labels.tolist() == (TRAIN[:, 0, 0, 0] % 3).tolist()  # 1 to 1000 became 0 to 999
    assert np.array_equal(test.images.numpy(), TEST)
    assert len(manifest["files_sha256"]) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": np.zeros((2, 3072), np.float32)}, "data is float32"),
        ({"data": np.zeros((2, 12288), np.uint8)}, "expected uint8 rows of 3072"),
        ({"data": np.zeros((2, 32, 32, 3), np.uint8)}, "expected uint8 rows of 3072"),
        ({"data": TRAIN.transpose(0, 2, 3, 1).reshape(20, -1)}, "look channel-last"),
        ({"data": TRAIN[:2].reshape(2, -1), "labels": [0, 5]}, "labels run from 0 to 5, expected 1 to 1000"),
        ({"data": TRAIN[:2].reshape(2, -1), "labels": [1, 1001]}, "labels run from 1 to 1001"),
        ({"data": TRAIN[:2].reshape(2, -1), "labels": [1]}, "labels of shape"),
    ],
)
@pytest.mark.parametrize("layout", ["pickle", "npz"])
def test_imagenet32_of_another_layout_is_detected(made, tmp_path, layout, changes, message):
    archives.imagenet32(tmp_path / "downloads", TRAIN, TEST, layout, **changes)
    with pytest.raises(DataError, match=message):
        made("imagenet32")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("n_classes", [0, 2])
def test_a_folder_of_pictures(made, tmp_path, n_classes):
    archives.folder(tmp_path / "mine", archives.pictures(12, 48), n_classes)
    settings = {"n_source": None, "path": str(tmp_path / "mine"), "image_size": 16, "n_test": 4}
    train, test, manifest = made("image_folder", **settings)
    assert train.images.shape == (8, 3, 16, 16)
    assert len(test) == 4
    assert (train.labels is None) == (n_classes == 0)
    assert manifest["labels"] == (["class_0", "class_1"] if n_classes else None)


def test_a_folder_with_its_own_split(made, tmp_path):
    for part, images in (("train", TRAIN), ("test", TEST)):
        archives.folder(tmp_path / "mine" / part, images, 2, "WEBP" if part == "test" else "PNG")
    train, test, _ = made("image_folder", n_source=None, path=str(tmp_path / "mine"))
    assert sorted(image.tobytes() for image in train.images.numpy()) == sorted(image.tobytes() for image in TRAIN)
    assert len(test) == 10


def test_pictures_are_cropped_and_reduced_without_aliasing(made, tmp_path):
    stripes = np.zeros((1, 3, 64, 96), np.uint8)
    stripes[:, :, ::2] = 255  # one line in two: point sampling would give black or white, not grey
    archives.folder(tmp_path / "mine", stripes.repeat(2, 0))
    train, _, _ = made("image_folder", n_source=None, path=str(tmp_path / "mine"), image_size=16, n_test=0)
    inner = train.images[:, :, 2:-2, 2:-2].float()
    assert train.images.shape == (2, 3, 16, 16)
    assert abs(inner - 127.5).max() < 8


@pytest.mark.parametrize("size", [1024, 256, 128])
def test_celeba_hq(made, tmp_path, size):
    archives.folder(tmp_path / "hq", archives.pictures(3, size), kind="JPEG")
    settings = {"n_source": 3, "path": str(tmp_path / "hq"), "image_size": 128, "n_test": 0}
    train, test, manifest = made("celeba_hq", **settings)
    assert train.images.shape == (3, 3, 128, 128)
    assert train.labels is None
    assert len(test) == 0
    assert "bicubic" in manifest["recipe"]


def test_celeba_hq_must_be_complete_and_of_a_known_size(made, tmp_path):
    archives.folder(tmp_path / "hq", archives.pictures(2, 128))
    settings = {"path": str(tmp_path / "hq"), "image_size": 128, "n_test": 0}
    with pytest.raises(DataError, match="holds 2 images, expected 30000"):
        made("celeba_hq", n_source=None, **settings)
    archives.folder(tmp_path / "hq", archives.pictures(3, 100))
    with pytest.raises(DataError, match="is 100x100"):
        made("celeba_hq", **settings)


def test_bad_folders(made, tmp_path):
    def refused(message: str, **changes) -> None:
        with pytest.raises(DataError, match=message):
            made("image_folder", **{"n_source": None, "path": str(tmp_path / "mine"), **changes})

    refused("no such folder")
    (tmp_path / "mine").mkdir()
    refused("holds no pictures")
    (tmp_path / "mine" / "broken.png").write_bytes(b"\x89PNG not really")
    refused(r"broken\.png: is not a readable picture")
    archives.folder(tmp_path / "mine", TRAIN, 2)
    refused("both beside and inside")
    (tmp_path / "mine" / "broken.png").unlink()
    (tmp_path / "mine" / "class_0").rename(tmp_path / "mine" / "train")
    refused("only one of train/ and test/")


def test_damaged_archives(made, tmp_path):
    downloads = tmp_path / "downloads"
    path = downloads / "cifar-10-python.tar.gz"
    archives.cifar(path, TRAIN, TEST, 10, False)
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: (is not a readable|lacks)"):
        made("cifar10")
    archives.cifar(path, TRAIN, TEST, 10, False, {"data_batch_2": pickle.dumps({"data": TRAIN, "labels": []})})
    with pytest.raises(DataError, match="data_batch_2: data is uint8"):
        made("cifar10")
    (downloads / "tiny-imagenet-200.zip").write_bytes(b"<html>not found</html>")
    with pytest.raises(DataError, match="is not a readable zip archive"):
        made("tiny_imagenet", image_size=64)
    for part in ("train", "test"):
        (downloads / f"{part}_32x32.mat").write_bytes(b"MATLAB?")
    with pytest.raises(DataError, match="is not a readable MATLAB file"):
        made("svhn")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_are_not_executed(tmp_path, protocol):
    content = pickle.dumps({"data": Bomb(tmp_path / "executed")}, protocol=protocol)
    with pytest.raises(DataError, match=r"the name \w+\.mkdir"):
        load_batch(content, "x")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickles_of_arrays_are_read(protocol):
    batch = {"data": TRAIN[:2], "labels": [1, 2], b"name": b"x", "scalar": np.float64(2.5)}
    loaded = load_batch(pickle.dumps(batch, protocol=protocol), "x")
    assert np.array_equal(loaded["data"], TRAIN[:2])
    assert loaded["labels"] == [1, 2]
    assert loaded["scalar"] == 2.5


def test_pickles_that_are_none():
    for content, message in (
        (b"not a pickle", "is not a readable pickle"),
        (pickle.dumps({"a": 1})[:-3], "is not a readable pickle"),
        (pickle.dumps([1]), "holds a list"),
        (pickle.dumps({"data": np.array([{}], dtype=object)}), "array of objects"),
    ):
        with pytest.raises(DataError, match=message):
            load_batch(content, "x")


def test_published_files_have_https_or_known_addresses_and_checksums():
    for source in ("cifar10", "cifar100", "svhn", "tiny_imagenet", "imagenet32"):
        files = remote_files(smoke.section("dataset", source=source))
        assert files, source
        assert source in PUBLISHED_COUNTS
        for file in files:
            algorithm, digits = file.checksum.split(":")
            assert len(digits) == {"md5": 32, "sha256": 64}[algorithm]
            assert file.url.endswith(file.name)


def test_a_mirror_replaces_the_address():
    settings = smoke.section("dataset", source="cifar10", urls={"cifar-10-python.tar.gz": "http://localhost/x"})
    assert remote_files(settings)[0].url == "http://localhost/x"
