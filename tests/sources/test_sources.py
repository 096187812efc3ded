"""Every public format comes out as the images that went in; wrong files are named, and nothing in them is executed."""

import os
import pickle
import resource
import socket
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib

import archives
import numpy as np
import pytest
import smoke

from mebm import sources
from mebm.data.images import load_images
from mebm.data.prepare import prepare
from mebm.download import RemoteFile
from mebm.errors import DataError
from mebm.files import sha256
from mebm.sources.reading.published import with_mirrors
from mebm.sources.reading.unpickle import load_batch

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
    (tmp_path / "mine").touch()
    refused(r"mine: is a file, expected a folder; set dataset\.path to that of the pictures$")
    (tmp_path / "mine").unlink()
    (tmp_path / "mine").mkdir()
    refused("holds no pictures")
    (tmp_path / "mine" / "broken.png").write_bytes(b"\x89PNG not really")
    refused(r"broken\.png: is not a readable picture \(no PNG, JPEG, WebP or BMP\); replace or remove it$")
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


@pytest.mark.parametrize("kind", ["EPS", "GIF", "TIFF", "PPM", "ICO", "PDF"])
@pytest.mark.parametrize("name", ["a.png", "class/a.jpg"])
def test_a_picture_of_another_format_is_not_decoded_whatever_its_name(made, tmp_path, monkeypatch, kind, name):
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(archives.encode(TRAIN[0], kind))
    with pytest.raises(DataError, match=rf"{path}: is not a readable picture \(no PNG, JPEG, WebP or BMP\)"):
        made("image_folder", n_source=None, path=str(tmp_path / "mine"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP"])
def test_a_picture_of_an_accepted_format_is_read_under_the_name_of_another(made, tmp_path, kind):
    archives.folder(tmp_path / "mine", TRAIN[:4])
    (tmp_path / "mine" / "00000.png").write_bytes(archives.encode(TRAIN[0], kind))
    train, _, _ = made("image_folder", n_source=None, path=str(tmp_path / "mine"), n_test=0)
    assert abs(train.images[0].numpy().astype(int) - TRAIN[0]).mean() < 6


def large_png(side: int) -> bytes:
    """A PNG that says it is that large, and is not."""
    content = archives.encode(TRAIN[0], "PNG")
    header = b"IHDR" + struct.pack(">II", side, side) + content[24:29]
    return content[:12] + header + struct.pack(">I", zlib.crc32(header)) + content[33:]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (large_png(10_000), "has more than 89478485 pixels"),
        (large_png(50_000), "has more than 89478485 pixels"),
        (large_png(2**31 - 1), "has more than 89478485 pixels"),
        (large_png(64), "is not a readable picture"),
        (b"", "is not a readable picture"),
        (archives.encode(TRAIN[0], "PNG")[:60], "is not a readable picture"),
        (archives.encode(TRAIN[0], "JPEG")[:60], "is not a readable picture"),
        (archives.encode(TRAIN[0], "WEBP")[:60], "is not a readable picture"),
        (archives.encode(TRAIN[0], "BMP")[:60], "is not a readable picture"),
    ],
)
def test_pictures_that_are_too_large_or_damaged(made, tmp_path, content, message):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(content)
    with pytest.raises(DataError, match=rf"a\.png: {message}") as error:
        made("image_folder", n_source=None, path=str(tmp_path / "mine"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", ["pipe", "socket", "dangling link", "link to a device", "huge"])
@pytest.mark.parametrize("inside", [False, True])
def test_what_is_no_file_is_no_picture_and_nothing_waits(made, tmp_path, monkeypatch, kind, inside):
    folder = archives.folder(tmp_path / "mine", TRAIN[:4], 1 if inside else 0)
    path = next(folder.rglob("*.png")).with_name("zz.png")
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # the path of a socket is short
        with socket.socket(socket.AF_UNIX) as bound:
            bound.bind(path.name)
    elif kind == "huge":
        with open(path, "wb") as file:
            file.truncate(2**40)
    else:
        path.symlink_to("/dev/zero" if "device" in kind else tmp_path / "none")
    with pytest.raises(DataError, match=rf"{path}: (is not a regular file|has more than)"):
        made("image_folder", n_source=None, path=str(folder))


def test_a_folder_named_as_a_picture_is_a_class(made, tmp_path):
    for name in ("cats.png", "dogs"):
        archives.folder(tmp_path / "mine" / name, TRAIN[:4])
    _, _, manifest = made("image_folder", n_source=None, path=str(tmp_path / "mine"), n_test=2)
    assert manifest["labels"] == ["cats.png", "dogs"]


def test_archives_that_would_unpack_without_end(made, tmp_path, monkeypatch):
    downloads = tmp_path / "downloads"
    for module in ("mebm.sources.reading.archives", "mebm.sources.svhn", "mebm.files"):
        monkeypatch.setattr(f"{module}.UNPACKED", 10**5)
    archives.cifar(downloads / "cifar-10-python.tar.gz", TRAIN, TEST, 10, False, {"batches.meta": bytes(10**6)})
    archives.cifar(downloads / "cifar-100-python.tar.gz", TRAIN, TEST, 10, True, {"padding": bytes(10**7)})
    for part in ("train", "test"):
        archives.svhn(downloads / f"{part}_32x32.mat", archives.pictures(60))
    for name in ("Imagenet32_train_npz.zip", "Imagenet32_val_npz.zip", "tiny-imagenet-200.zip"):
        with zipfile.ZipFile(downloads / name, "w", zipfile.ZIP_DEFLATED) as archive:
            for member in ("train_data_batch_1.npz", "val_data.npz", "tiny-imagenet-200/wnids.txt"):
                archive.writestr(member, bytes(10**6))
    for source, name in (
        ("cifar10", "cifar-10-python"),
        ("cifar100", "cifar-100-python"),
        ("svhn", "train_32x32"),
        ("imagenet32", "Imagenet32_train_npz"),
        ("tiny_imagenet", "tiny-imagenet-200"),
    ):
        with pytest.raises(DataError, match=rf"{name}.*(unpacks? to|holds more than)") as error:
            made(source, image_size=64 if source == "tiny_imagenet" else 32)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_members_of_an_archive_that_are_no_files(made, tmp_path, kind):
    with tarfile.open(tmp_path / "downloads" / "cifar-10-python.tar.gz", "w:gz") as archive:
        info = tarfile.TarInfo("cifar-10-batches-py/batches.meta")
        info.type = kind
        info.linkname = info.name
        archive.addfile(info)
    with pytest.raises(DataError, match=r"cifar-10-python\.tar\.gz: .*batches\.meta is not a file"):
        made("cifar10")


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


def hashes_for_ever() -> bytes:
    """A dictionary whose key is a tuple of two of the same tuple, and so on 60 times."""
    return pickle.PROTO + b"\x02}" + b"K\x01\x85q\x00" + b"h\x00\x86q\x00" * 60 + b"K\x01s."


ND, DT = "cnumpy\nndarray\n", "cnumpy\ndtype\n(S'u1'\nI0\nI1\ntR"
EMPTY = f"cnumpy.core.multiarray\n_reconstruct\n({ND}(I0\ntS'b'\ntR"
PICKLE_BOMBS = {
    "memo": b"\x80\x02}r\xff\xff\xff\x7fN.",
    "key": hashes_for_ever(),
    "set": b"\x80\x04\x8f(K\x01\x90.",
    "bytearray": b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".",
    "bytes": b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".",
    "frame": b"\x80\x04\x95" + struct.pack("<Q", 2**40) + b".",
    "ndarray": f"{ND}((I1000000\nI1000000\nttR.".encode(),
    "array of more than it has": f"{EMPTY}(I1\n(I1000000\nI3072\nt{DT}I00\nS'abc'\ntb.".encode(),
    "array of less than none": f"{EMPTY}(I1\n(I-1\nI-3\nt{DT}I00\nS'abc'\ntb.".encode(),
    "wide type": b"cnumpy\ndtype\n(S'V2147483647'\nI0\nI1\ntR.",
    "state of a function": b"c_codecs\nencode\n(dS'a'\nI1\nsb.",
    "state of a class": f"{ND}(dS'a'\nI1\nsb.".encode(),
    "extension": b"\x80\x02\x82\x01.",
    "persistent": b"Pabc\n.",
}


@pytest.mark.parametrize("name", PICKLE_BOMBS)
def test_pickles_take_no_more_than_they_hold(name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"^x: is not a readable pickle") as error:
        load_batch(PICKLE_BOMBS[name] if name != "memo" else PICKLE_BOMBS[name][:-2], "x")
    assert "\n" not in str(error.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # kB


def test_labels_within_labels_are_not_unfolded(made, tmp_path):
    labels: list = [1]
    for _ in range(60):
        labels = [labels, labels]
    archives.imagenet32(tmp_path / "downloads", TRAIN, TEST, "pickle", labels=labels)
    with pytest.raises(DataError, match="labels are a list, expected 2 integers"):
        made("imagenet32")


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("kind", ["<i4", ">i4", "<f8", "|u1", "|b1"])
@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_any_order_and_number_are_read(order, kind, protocol):
    array = np.asarray(np.arange(6).reshape(2, 3), kind, order)
    loaded = load_batch(pickle.dumps({"data": array, "transposed": array.T}, protocol=protocol), "x")
    assert np.array_equal(loaded["data"], array)
    assert np.array_equal(loaded["transposed"], array.T)
    assert loaded["data"].dtype == array.dtype


def test_published_files_have_https_or_known_addresses_and_checksums():
    downloaded = [name for name in sources.names() if sources.about(name).files]
    assert {"cifar10", "cifar100", "svhn", "tiny_imagenet", "imagenet32"} <= set(downloaded)
    for file in (file for name in downloaded for file in sources.about(name).files):
        algorithm, digits = file.checksum.split(":")
        assert len(digits) == {"md5": 32, "sha256": 64}[algorithm]
        assert file.url.startswith(("https://", "http://ufldl.stanford.edu/", "http://cs231n.stanford.edu/"))
        assert file.url.endswith(f"/{file.name}")


def test_addresses_and_checksums_are_those_of_torchvision():
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN

    for name, theirs in (("cifar10", CIFAR10), ("cifar100", CIFAR100)):
        (ours,) = sources.about(name).files
        assert (ours.name, ours.url, ours.checksum) == (theirs.filename, theirs.url, f"md5:{theirs.tgz_md5}")
    theirs = [(name, url, f"md5:{md5}") for url, name, md5 in (SVHN.split_list[part] for part in ("train", "test"))]
    assert [(file.name, file.url, file.checksum) for file in sources.about("svhn").files] == theirs


def test_a_mirror_replaces_the_address():
    files = sources.about("cifar10").files
    settings = smoke.section("dataset", source="cifar10", urls={files[0].name: "http://localhost/x"})
    (mirrored,) = with_mirrors(files, settings)
    assert mirrored == RemoteFile(files[0].name, "http://localhost/x", files[0].checksum)


def test_what_is_said_of_a_source_is_plausible():
    assert "cifar10" in sources.names()
    for name in sources.names():
        about = sources.about(name)
        assert about.channels in (1, 3), name
        assert set(about.counts) in (set(), {"train"}, {"train", "test"}), name
        assert about.recipe.endswith("."), name
        assert about.licence, name
        assert about.counts or about.from_folder, name


def test_what_is_known_of_sources_costs_no_heavy_import():
    script = (
        "import sys; from mebm import sources\n"
        "found = [sources.about(name) for name in sources.names()]\n"
        "print(*({'torch', 'torchvision', 'scipy', 'sklearn', 'PIL', 'pandas', 'mlxtend'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout == "\n"
