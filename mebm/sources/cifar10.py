"""CIFAR-10: 60,000 photographs of 32x32 pixels in 10 classes."""

from mebm.download import RemoteFile
from mebm.sources import About, Parts, Wanted
from mebm.sources.reading.cifar import LICENCE, RECIPE, read_cifar

ABOUT = About(
    recipe=RECIPE,
    licence=LICENCE,
    channels=3,
    counts={"train": 50_000, "test": 10_000},
    sides=(32,),
    classes=10,
    title="CIFAR-10",
    files=(
        RemoteFile(
            "cifar-10-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
            "md5:c58f30108f718f92721af3b95e74349a",
        ),
    ),
)


def read(wanted: Wanted) -> Parts:
    """Five batches to train on, one to test."""
    return read_cifar(
        ABOUT,
        wanted,
        folder="cifar-10-batches-py",
        train=[f"data_batch_{number}" for number in range(1, 6)],
        test=["test_batch"],
        label_key="labels",
        meta=("batches.meta", "label_names"),
    )
