"""A data set on disk: its source streamed once, split once, written as archives with a manifest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mebm import sources
from mebm.data.archives import writing_images
from mebm.data.split import split_stratified
from mebm.errors import DataError
from mebm.files import sha256, write_json
from mebm.settings.schema import Dataset

if TYPE_CHECKING:
    from mebm.sources import Chunk

MADE = ("train.npz", "test.npz", "manifest.json")  # by `prepare`
RECIPE_VERSION = 2  # raised when the same files would give other images
GATHER = 1000  # images copied at a time


def _split(labels: np.ndarray | None, n: int, settings: Dataset, key: str) -> tuple[np.ndarray, np.ndarray]:
    """A stratified split with as many held out as a key of the settings says, which an error names."""
    try:
        return split_stratified(labels, n, getattr(settings, key), settings.seed)
    except DataError as error:
        raise DataError(f"dataset.{key}: {error}; change it") from error


@dataclass
class _Part:
    """Images spooled to disk, so that memory does not grow with the data set."""

    images: np.ndarray  # memory-mapped
    labels: np.ndarray | None


@contextmanager
def _spooled(chunks: Iterator["Chunk"], path: Path) -> Iterator[_Part]:
    """The chunks of a source in one memory-mapped file, which is removed at the end."""
    labels: list[np.ndarray] = []
    count, shape = 0, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for images, part_labels in chunks:
                shape = shape or images.shape[1:]
                file.write(memoryview(np.ascontiguousarray(images)).cast("B"))
                count += len(images)
                if part_labels is not None:
                    labels.append(part_labels)
        if not count:
            raise DataError("the data set holds no images")
        images = np.memmap(path, np.uint8, "r", shape=(count, *shape))
        yield _Part(images, np.concatenate(labels) if labels else None)
    finally:
        path.unlink(missing_ok=True)


def prepare(settings: Dataset, name: str, out: str | Path) -> dict:
    """Write `train.npz`, `test.npz` and, last, `manifest.json` of the data set into `out`; returns the manifest.

    The test split is the set's own, or n_test images held out of the one that it has. With evaluate_on "validation",
    it is left out and part of the training split takes its place, so that settings can be tuned without looking at
    it. Memory stays bounded by a chunk of the source. Raises DataError for files that are not what they should be.
    """
    out = Path(out)
    about, source = sources.about(settings.source), sources.read(settings.source, settings)
    spool = out / f".spool.{os.getpid()}"
    with _spooled(source.train, spool.with_suffix(".train")) as first:
        _check_count(settings, "train", len(first.images))
        classes = len(source.label_names) if source.label_names else None
        if source.test is None:
            kept, held_out = _split(first.labels, len(first.images), settings, "n_test")
            train, test = (first, kept), (first, held_out)
            counts = _write(settings, out, train, test, classes)
        else:
            train = (first, np.arange(len(first.images)))
            if settings.evaluate_on == "validation":
                counts = _write(settings, out, train, (first, np.arange(0)), classes)
            else:
                with _spooled(source.test, spool.with_suffix(".test")) as second:
                    _check_count(settings, "test", len(second.images))
                    if second.images.shape[1:] != first.images.shape[1:]:
                        raise DataError(f"{settings.source}: training and test images have different shapes")
                    counts = _write(settings, out, train, (second, np.arange(len(second.images))), classes)
        shape = list(first.images.shape[1:])
        labels = None if first.labels is None else source.label_names
    manifest = {
        "name": name,
        "source": settings.source,
        "origin": source.origin,
        "files_sha256": source.files,
        "licence": about.licence,
        "recipe": about.recipe,
        "recipe_version": RECIPE_VERSION,
        "shape": shape,
        "evaluate_on": settings.evaluate_on,
        "split_seed": settings.seed,
        "labels": labels,
        "counts": counts,
        "sha256": {part: sha256(out / f"{part}.npz") for part in ("train", "test")},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _write(settings: Dataset, out: Path, train: tuple, test: tuple, classes: int | None) -> dict[str, int]:
    part, kept = train
    if settings.evaluate_on == "validation":
        labels = None if part.labels is None else part.labels[kept]
        inner, validation = _split(labels, len(kept), settings, "n_validation")
        train, test = (part, kept[inner]), (part, kept[validation])
    for name, (source, indices) in (("train", train), ("test", test)):
        labels = None if source.labels is None else source.labels[indices]
        with writing_images(out / f"{name}.npz", (len(indices), *source.images.shape[1:]), labels, classes) as append:
            for start in range(0, len(indices), GATHER):
                append(source.images[indices[start : start + GATHER]])
    return {"train": len(train[1]), "test": len(test[1])}


def _check_count(settings: Dataset, part: str, found: int) -> None:
    published = sources.about(settings.source).counts.get(part)
    expected = settings.n_source if part == "train" and settings.n_source is not None else published
    if settings.n_source is not None and part == "test":
        return  # a set of another size than the published one has another test part, too
    if expected is not None and found != expected:
        raise DataError(
            f"{settings.source}: the {part} part holds {found} images, expected {expected}; complete it, or set "
            "dataset.n_source to the number that you mean to use"
        )
