"""ImageNet reduced to 32x32 pixels, 1000 classes (Chrabaszcz et al. 2017)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mebm.download import RemoteFile
from mebm.errors import DataError
from mebm.files import arrays_in, sha256
from mebm.sources import About, Parts, Wanted
from mebm.sources.reading.archives import open_zip, zip_member
from mebm.sources.reading.arrays import labels_from, rows_to_images
from mebm.sources.reading.published import obtain_all
from mebm.sources.reading.unpickle import load_batch

if TYPE_CHECKING:
    from mebm.sources import Chunk

_ADDRESS = "https://image-net.org/data/downsample"
ABOUT = About(
    recipe="Rows of 3072 channel-first values and labels 1 to 1000, pickled or npz, in zip files; labels become 0 to "
    "999.",
    licence="ImageNet terms: non-commercial research and education; cite Chrabaszcz et al. 2017",
    channels=3,
    counts={"train": 1_281_167, "test": 50_000},
    sides=(32,),
    classes=1000,
    title="ImageNet 32x32",
    files=(
        RemoteFile(
            "Imagenet32_train_npz.zip",
            f"{_ADDRESS}/Imagenet32_train_npz.zip",
            "sha256:94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
        ),
        RemoteFile(
            "Imagenet32_val_npz.zip",
            f"{_ADDRESS}/Imagenet32_val_npz.zip",
            "sha256:013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
        ),
    ),
)


def read(wanted: Wanted) -> Parts:
    """The published npz archives, or the pickled ones where somebody has placed both by hand."""
    folder = Path(wanted.downloads)
    pickled = [folder / f"Imagenet32_{part}.zip" for part in ("train", "val")]
    if all(path.is_file() for path in pickled):  # no checksum of these is published, so they are placed by hand
        paths, files, origin = pickled, {path.name: sha256(path) for path in pickled}, ["placed by hand"]
    else:
        paths, files, origin = obtain_all(ABOUT.files, wanted)
    names = [f"class {label}" for label in range(1, 1001)]
    return Parts(_chunks(paths[0]), _chunks(paths[1]), names, files, origin)


def _chunks(path: Path) -> Iterator["Chunk"]:
    archive = open_zip(path)
    names = [name for name in archive.namelist() if re.search(r"(train_data_batch_\d+|val_data)(\.npz)?$", name)]
    if not names:
        raise DataError(f"{path}: holds no train_data_batch_N or val_data; another layout")
    for name in sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", Path(name).stem)]):
        origin = f"{path}: {name}"
        with zip_member(archive, name, path) as file:
            batch = arrays_in(file, origin, ("data", "labels")) if name.endswith(".npz") else load_batch(file, origin)
        images = rows_to_images(batch.get("data"), 32, origin)
        yield images, labels_from(batch.get("labels"), len(images), 1, 1000, origin)
