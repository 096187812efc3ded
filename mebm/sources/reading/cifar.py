"""The layout that CIFAR-10 and CIFAR-100 share: pickled batches of channel-first rows inside tar.gz."""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mebm.errors import DataError
from mebm.sources import About, Parts, Wanted
from mebm.sources.reading.archives import tar_member
from mebm.sources.reading.arrays import labels_from, rows_to_images
from mebm.sources.reading.published import obtain_all
from mebm.sources.reading.unpickle import load_batch

if TYPE_CHECKING:
    from mebm.sources import Chunk

RECIPE = "Python batches inside tar.gz; channel-first rows."
LICENCE = "no licence stated; cite Krizhevsky 2009, Learning multiple layers of features from tiny images"


def read_cifar(
    about: About,
    wanted: Wanted,
    *,
    folder: str,
    train: Iterable[str],
    test: Iterable[str],
    label_key: str,
    meta: tuple[str, str],
) -> Parts:
    """Both sets differ in the names inside the archive only.

    folder: of its members; train, test: names of the batches; label_key: of the labels in a batch; meta: the member
    that holds the class names, and the key under which it does.
    """
    (path,), files, origin = obtain_all(about.files, wanted)

    def member(name: str) -> dict:
        inside = f"{folder}/{name}"
        return load_batch(tar_member(path, inside), f"{path}: {inside}")

    def chunks(names: Iterable[str]) -> Iterator["Chunk"]:
        for name in names:
            batch, origin = member(name), f"{path}: {name}"
            images = rows_to_images(batch.get("data"), 32, origin)
            yield images, labels_from(batch.get(label_key), len(images), 0, about.classes - 1, origin)

    listed = member(meta[0]).get(meta[1])
    if not isinstance(listed, list) or not all(isinstance(name, (str, bytes)) for name in listed):
        raise DataError(f"{path}: {meta[0]} holds no list of class names; it is another archive")
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in listed]
    return Parts(chunks(train), chunks(test), names, files, origin)
