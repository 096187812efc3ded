"""Tiny ImageNet: photographs of 64x64 pixels in 200 classes of ImageNet."""

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from mebm.download import RemoteFile
from mebm.errors import DataError
from mebm.sources import About, Found, Parts, Wanted
from mebm.sources.reading.archives import open_zip, zip_member
from mebm.sources.reading.decoding import decode
from mebm.sources.reading.pictures import CHUNK, RECIPE_VERSION, is_hidden, stack
from mebm.sources.reading.published import obtain_all

if TYPE_CHECKING:
    from mebm.sources import Chunk

ABOUT = About(
    recipe="JPEG files in a zip, 64x64, grey ones repeated over three channels; the validation part is the test split.",
    licence="ImageNet terms: non-commercial research and education",
    channels=3,
    counts={"train": 100_000, "test": 10_000},
    sides=(64,),
    classes=200,
    title="Tiny ImageNet",
    files=(
        RemoteFile(
            "tiny-imagenet-200.zip",
            "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
            "md5:90528d7ca1a48142e341f4ef8d21d0de",
        ),
    ),
    recipe_version=RECIPE_VERSION,
)
_ROOT = "tiny-imagenet-200"


def read(wanted: Wanted) -> Parts:
    """Pictures in the order of their names, with the labels that the archive's own lists give."""
    (path,), files, origin = obtain_all(ABOUT.files, wanted)
    archive = open_zip(path)

    def text(name: str) -> list[str]:
        try:
            with zip_member(archive, f"{_ROOT}/{name}", path) as file:
                return file.read().decode("utf-8").splitlines()
        except (KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: lacks {_ROOT}/{name} as text; it is another archive") from error

    ids = sorted(line.strip() for line in text("wnids.txt") if line.strip())
    index = {wnid: label for label, wnid in enumerate(ids)}
    words = dict(line.split("\t", 1) for line in text("words.txt") if "\t" in line)
    found = Found()
    members = sorted(name for name in archive.namelist() if re.fullmatch(rf"{_ROOT}/train/n\d+/images/.+\.JPEG", name))
    found.hidden = sum(map(is_hidden, members))
    annotated = [line.split("\t")[:2] for line in text("val/val_annotations.txt") if "\t" in line]

    def chunks(pairs: list[tuple[str, str]]) -> Iterator["Chunk"]:
        for start in range(0, len(pairs), CHUNK):
            part = pairs[start : start + CHUNK]
            try:
                images = [
                    decode(zip_member(archive, name, path), f"{path}: {name}", wanted.background, found)
                    for name, _ in part
                ]
                labels = [index[wnid] for _, wnid in part]
            except KeyError as error:
                raise DataError(f"{path}: {error} is named by its lists but not there") from error
            wrong = next((name for (name, _), image in zip(part, images, strict=True) if image.size != (64, 64)), None)
            if wrong:
                raise DataError(f"{path}: {wrong} is not 64x64")
            yield stack(images), np.array(labels, np.int64)

    train = [(name, name.split("/")[2]) for name in members if not is_hidden(name)]
    test = [(f"{_ROOT}/val/images/{name}", wnid) for name, wnid in annotated]
    return Parts(chunks(train), chunks(test), [words.get(wnid, wnid) for wnid in ids], files, origin, found)
