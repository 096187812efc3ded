"""CIFAR-100: 60,000 photographs of 32x32 pixels in 100 classes, of which the fine ones are taken."""

from mebm.download import RemoteFile
from mebm.sources import About, Parts, Wanted
from mebm.sources.reading.cifar import LICENCE, RECIPE, read_cifar

ABOUT = About(
    recipe=RECIPE,
    licence=LICENCE,
    channels=3,
    counts={"train": 50_000, "test": 10_000},
    sides=(32,),
    classes=100,
    title="CIFAR-100",
    files=(
        RemoteFile(
            "cifar-100-python.tar.gz",
            "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
            "md5:eb9058c3a382ffc7106e4002c42a8d85",
        ),
    ),
)


def read(wanted: Wanted) -> Parts:
    """One batch to train on, one to test."""
    return read_cifar(
        ABOUT,
        wanted,
        folder="cifar-100-python",
        train=["train"],
        test=["test"],
        label_key="fine_labels",
        meta=("meta", "fine_label_names"),
    )
