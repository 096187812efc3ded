"""A data set on disk: its source streamed once, split once, written as archives with a manifest."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from mebm import sources
from mebm.data.archives import writing_images
from mebm.data.manifest import facts
from mebm.data.split import digests_of, split_stratified
from mebm.errors import DataError
from mebm.files import sha256, write_json
from mebm.settings.schema import Dataset

if TYPE_CHECKING:
    from mebm.sources import Chunk

MADE = ("train.npz", "test.npz", "manifest.json")  # by `prepare`
GATHER = 1000  # images copied at a time


@dataclass
class _Part:
    """Images spooled to disk, so that memory does not grow with the data set."""

    images: np.ndarray  # memory-mapped
    labels: np.ndarray | None
    digests: np.ndarray  # uint64, by which equal images are known


class _Chosen(NamedTuple):
    """Images of a part, by their indices."""

    part: _Part
    indices: np.ndarray

    @property
    def labels(self) -> np.ndarray | None:
        return None if self.part.labels is None else self.part.labels[self.indices]

    @property
    def digests(self) -> np.ndarray:
        return self.part.digests[self.indices]


def _split(chosen: _Chosen, settings: Dataset, key: str) -> tuple[_Chosen, _Chosen]:
    """A stratified split with as many held out as a key of the settings says, which an error names."""
    n, wanted = len(chosen.indices), getattr(settings, key)
    try:
        kept, held_out = split_stratified(chosen.labels, chosen.digests, wanted, settings.seed)
    except DataError as error:
        raise DataError(f"dataset.{key}: {error}; change it") from error
    if len(held_out) != wanted:
        raise DataError(
            f"dataset.{key}: {wanted} of these {n} images cannot be held out, because equal ones stay on one side of "
            f"the split; set it to {len(held_out)}, or remove copies of pictures"
        )
    return tuple(_Chosen(chosen.part, chosen.indices[indices]) for indices in (kept, held_out))


@contextmanager
def _spooled(chunks: Iterator["Chunk"], path: Path) -> Iterator[_Part]:
    """The chunks of a source in one memory-mapped file, which is removed at the end."""
    labels: list[np.ndarray] = []
    digests: list[np.ndarray] = []
    count, shape = 0, None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for images, part_labels in chunks:
                shape = shape or images.shape[1:]
                images = np.ascontiguousarray(images)
                file.write(memoryview(images).cast("B"))
                digests.append(digests_of(images))
                count += len(images)
                if part_labels is not None:
                    labels.append(part_labels)
        if not count:
            raise DataError("the data set holds no images")
        images = np.memmap(path, np.uint8, "r", shape=(count, *shape))
        yield _Part(images, np.concatenate(labels) if labels else None, np.concatenate(digests))
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
        train = _Chosen(first, np.arange(len(first.images)))
        if source.test is None:
            train, test = _split(train, settings, "n_test")
            told = _write(settings, out, train, test, classes)
        elif settings.evaluate_on == "validation":
            told = _write(settings, out, train, _Chosen(first, np.arange(0)), classes)
        else:
            with _spooled(source.test, spool.with_suffix(".test")) as second:
                _check_count(settings, "test", len(second.images))
                if second.images.shape[1:] != first.images.shape[1:]:
                    raise DataError(f"{settings.source}: training and test images have different shapes")
                told = _write(settings, out, train, _Chosen(second, np.arange(len(second.images))), classes)
        shape = list(first.images.shape[1:])
        labels = None if first.labels is None else source.label_names
    manifest = {
        "name": name,
        "source": settings.source,
        "origin": source.origin,
        "files_sha256": source.files,
        "licence": about.licence,
        "recipe": about.recipe,
        "recipe_version": about.recipe_version,
        "shape": shape,
        "evaluate_on": settings.evaluate_on,
        "split_seed": settings.seed,
        "labels": labels,
        **told,
        **facts(source, shape, settings.background),
        "sha256": {part: sha256(out / f"{part}.npz") for part in ("train", "test")},
    }
    write_json(out / "manifest.json", manifest)
    return manifest


def _write(settings: Dataset, out: Path, train: _Chosen, test: _Chosen, classes: int | None) -> dict[str, dict]:
    """Write both archives; returns how many images they hold, and how many of these are equal."""
    if settings.evaluate_on == "validation":
        train, test = _split(train, settings, "n_validation")
    for name, (part, indices), labels in (("train", train, train.labels), ("test", test, test.labels)):
        with writing_images(out / f"{name}.npz", (len(indices), *part.images.shape[1:]), labels, classes) as append:
            for start in range(0, len(indices), GATHER):
                append(part.images[indices[start : start + GATHER]])
    counts = {"train": len(train.indices), "test": len(test.indices)}
    return {"counts": counts, "duplicates": _duplicates(train, test)}


def _duplicates(train: _Chosen, test: _Chosen) -> dict[str, int]:
    """How many images equal an earlier one of their part, in the test part one to train on, or one of another label."""
    counts = {part: len(one.digests) - len(np.unique(one.digests)) for part, one in (("train", train), ("test", test))}
    counts |= {"across": int(np.isin(test.digests, train.digests).sum()), "other_label": 0}
    if train.labels is not None and test.labels is not None and any(counts.values()):
        labels = np.concatenate([train.labels, test.labels])
        _, group = np.unique(np.concatenate([train.digests, test.digests]), return_inverse=True)
        pairs = np.unique(np.stack([group, labels]), axis=1)  # each label of each group once
        counts["other_label"] = int((np.bincount(pairs[0]) > 1)[group].sum())
    return counts


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
