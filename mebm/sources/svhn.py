"""SVHN: street-view house numbers, cropped digits of 32x32 pixels."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mebm.download import RemoteFile
from mebm.errors import DataError
from mebm.files import UNPACKED
from mebm.sources import About, Parts, Wanted
from mebm.sources.reading.arrays import labels_from
from mebm.sources.reading.published import obtain_all

if TYPE_CHECKING:
    from mebm.sources import Chunk

_ADDRESS = "http://ufldl.stanford.edu/housenumbers"
ABOUT = About(
    recipe="Cropped digits in MATLAB files, [H, W, C, N]; the label 10 stands for the digit 0.",
    licence="for non-commercial use only; cite Netzer et al. 2011",
    channels=3,
    counts={"train": 73_257, "test": 26_032},
    sides=(32,),
    classes=10,
    title="SVHN",
    files=(
        RemoteFile("train_32x32.mat", f"{_ADDRESS}/train_32x32.mat", "md5:e26dedcc434d2e4c54c9b2d4a06d8373"),
        RemoteFile("test_32x32.mat", f"{_ADDRESS}/test_32x32.mat", "md5:eb5a983be6a315427106f1b164d9cef3"),
    ),
)


def read(wanted: Wanted) -> Parts:
    """A file per part, each read as a whole."""
    (train, test), files, origin = obtain_all(ABOUT.files, wanted)
    return Parts(_chunks(train), _chunks(test), [str(digit) for digit in range(10)], files, origin)


def _chunks(path: Path) -> Iterator["Chunk"]:
    from scipy.io import loadmat, whosmat

    try:
        sizes = {name: shape for name, shape, _ in whosmat(path)}  # before anything of such a size is read
        if any(np.prod([1, *sizes[name]], dtype=object) > UNPACKED for name in ("X", "y") if name in sizes):
            raise DataError(f"{path}: holds more than the {UNPACKED} values that are read; another file")
        content = loadmat(path, variable_names=("X", "y"))
        images, labels = content["X"], content["y"].reshape(-1)
    except KeyError as error:
        raise DataError(f"{path}: lacks the variable {error}, expected X and y; another file") from error
    except (DataError, MemoryError):
        raise
    except Exception as error:  # scipy raises many types for a damaged file
        raise DataError(f"{path}: is not a readable MATLAB file ({error})") from error
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[:3] != (32, 32, 3):
        raise DataError(f"{path}: X is {images.dtype} {list(images.shape)}, expected uint8 [32, 32, 3, N]")
    labels = labels_from(labels, images.shape[3], 1, 10, str(path)) + 1
    yield np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10
