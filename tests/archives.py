"""Tiny copies of the public data sets in their true on-disk formats."""

import io
import pickle
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import numpy as np


def pictures(n: int, size: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth colourful images, uint8 [n, 3, size, size]: neighbouring pixels resemble each other, as in photographs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:size, 0:size] / size
    images = np.empty((n, 3, size, size))
    for image in images:
        for channel in image:
            a, b, c, d = rng.uniform(-1, 1, 4)
            channel[:] = 127 + 60 * np.sin(3 * (a * x + b * y) + 6 * c) + 50 * d
    return np.clip(np.round(images), 0, 255).astype(np.uint8)


def labels_of(n: int, n_classes: int) -> list[int]:
    return [i % n_classes for i in range(n)]


def cifar(
    path: Path, images: np.ndarray, test: np.ndarray, n_classes: int, fine: bool, damage: dict | None = None
) -> Path:
    """Python batches inside tar.gz: CIFAR-10's, or with `fine` CIFAR-100's."""
    damage = damage or {}
    if fine:
        root, parts, meta = "cifar-100-python", {"train": images}, ("meta", "fine_label_names")
        parts["test"] = test
    else:
        root, meta = "cifar-10-batches-py", ("batches.meta", "label_names")
        parts = {f"data_batch_{i + 1}": part for i, part in enumerate(np.array_split(images, 5))}
        parts["test_batch"] = test
    key = "fine_labels" if fine else "labels"
    members = {}
    for name, part in parts.items():
        batch = {b"data": part.reshape(len(part), -1), key.encode(): labels_of(len(part), n_classes)}
        members[name] = pickle.dumps({**batch, b"batch_label": name.encode()}, protocol=2)
    members[meta[0]] = pickle.dumps({meta[1]: [f"class {i}" for i in range(100 if fine else 10)]}, protocol=2)
    members |= damage
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def svhn(path: Path, images: np.ndarray) -> Path:
    """A MATLAB file with X [32, 32, 3, N] and y [N, 1], the digit 0 as 10."""
    from scipy.io import savemat

    y = np.array([label or 10 for label in labels_of(len(images), 10)], np.uint8)[:, None]
    savemat(path, {"X": images.transpose(2, 3, 1, 0), "y": y}, do_compression=True)
    return path


def tiny_imagenet(path: Path, images: np.ndarray, test: np.ndarray, n_classes: int = 2) -> Path:
    """JPEG files in a zip with the lists of the published one; the first training image is grey."""
    root, ids = "tiny-imagenet-200", [f"n{i:08d}" for i in range(n_classes)]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{root}/wnids.txt", "\n".join(reversed(ids)) + "\n")
        archive.writestr(f"{root}/words.txt", "".join(f"{wnid}\tthing {wnid}\n" for wnid in ids))
        for i, (image, label) in enumerate(zip(images, labels_of(len(images), n_classes), strict=True)):
            content = encode(image, "JPEG", grey=i == 0)
            archive.writestr(f"{root}/train/{ids[label]}/images/{ids[label]}_{i}.JPEG", content)
        lines = []
        for i, (image, label) in enumerate(zip(test, labels_of(len(test), n_classes), strict=True)):
            archive.writestr(f"{root}/val/images/val_{i}.JPEG", encode(image, "JPEG"))
            lines.append(f"val_{i}.JPEG\t{ids[label]}\t0\t0\t62\t62")
        archive.writestr(f"{root}/val/val_annotations.txt", "\n".join(lines) + "\n")
    return path


def imagenet32(folder: Path, images: np.ndarray, test: np.ndarray, layout: str, **changes) -> list[Path]:
    """Both zip files, pickled ("pickle") or "npz", labels from 1; `changes` replace entries of every batch."""
    suffix = "_npz" if layout == "npz" else ""
    paths = [folder / f"Imagenet32_{part}{suffix}.zip" for part in ("train", "val")]
    trains = {f"train_data_batch_{i + 1}": part for i, part in enumerate(np.array_split(images, 10))}
    for path, parts in zip(paths, (trains, {"val_data": test}), strict=True):
        with zipfile.ZipFile(path, "w") as archive:
            for name in sorted(parts):  # batch 10 comes before batch 2, as in a directory listing
                part = parts[name]
                labels = [int(label) for label in part[:, 0, 0, 0] % 3 + 1]
                batch = {"data": part.reshape(len(part), -1), "labels": labels, "mean": np.zeros(3072), **changes}
                buffer = io.BytesIO()
                if layout == "npz":
                    np.savez(buffer, **batch)
                else:
                    pickle.dump(batch, buffer)
                archive.writestr(f"{name}{'.npz' if layout == 'npz' else ''}", buffer.getvalue())
    return paths


def folder(path: Path, images: np.ndarray, n_classes: int = 0, kind: str = "PNG") -> Path:
    """Pictures in a folder, with class subfolders where there are classes."""
    for i, image in enumerate(images):
        where = path / f"class_{i % n_classes}" if n_classes else path
        where.mkdir(parents=True, exist_ok=True)
        (where / f"{i:05d}.{kind.lower()}").write_bytes(encode(image, kind))
    return path


def encode(image: np.ndarray, kind: str, grey: bool = False) -> bytes:
    from PIL import Image

    picture = Image.fromarray(image.transpose(1, 2, 0))
    buffer = io.BytesIO()
    (picture.convert("L") if grey else picture).save(buffer, kind, quality=95)
    return buffer.getvalue()


def png(values: np.ndarray, depth: int, colour: int, **chunks: bytes) -> bytes:
    """A PNG of any depth and colour type (0 grey, 2 RGB, 3 palette, 4 grey with alpha, 6 RGBA), from [H, W, channels].

    chunks: between header and pixels, by name.
    """
    height, width = values.shape[:2]
    if depth < 8:
        bits = np.unpackbits(values.astype(np.uint8).reshape(height, -1, 1), axis=2)[..., 8 - depth :]
        rows = np.packbits(bits.reshape(height, -1), axis=1)
    else:
        rows = values.astype(f">u{depth // 8}").reshape(height, -1).view(np.uint8)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", header), *((name.encode(), content) for name, content in chunks.items())]
    made = b"\x89PNG\r\n\x1a\n"
    for name, content in [*parts, (b"IDAT", packed), (b"IEND", b"")]:
        made += struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
    return made


def inception_weights(folder: Path, seed: int = 0) -> Path:
    """A weight file of the published format with random values, named by its own hash."""
    import torch

    from mebm.files import sha256
    from mebm.measure.networks.inception import empty_network

    generator = torch.Generator().manual_seed(seed)
    state = {}
    for name, like in empty_network().state_dict().items():
        value = torch.zeros(like.shape, dtype=like.dtype)
        if name.endswith(("bn.weight", "running_var")):
            value += 1
        elif name.endswith("weight"):
            value.normal_(0, (2 / like[0].numel()) ** 0.5, generator=generator)
        state[name] = value
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "new.pth")
    path = folder / f"pt_inception-2015-12-05-{sha256(folder / 'new.pth')[:8]}.pth"
    return (folder / "new.pth").rename(path)
