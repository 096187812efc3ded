"""Time and peak memory of preparing a data set and fitting its Gaussian, at the sizes of the published sets.

    python benchmarks/prepare.py [--images N] [--folder DIR] {imagenet32,celeba_hq}

Makes a synthetic copy in the true on-disk format (ImageNet 32x32: ten npz batches in a zip; CelebA-HQ: PNG pictures of
256 pixels), then runs the stages `dataset` and `gaussian` as the pipeline does, each in a process of its own. Peak
memory is that of the process, pages of mapped files included.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import archives  # noqa: E402
import smoke  # noqa: E402

from mebm.files import sha256  # noqa: E402

SIZES = {"imagenet32": 1_281_167, "celeba_hq": 30_000}


def make_imagenet32(folder: Path, n: int) -> None:
    """Ten batches of smooth images, from a pool of 2,000 in random order."""
    pool, rng = archives.pictures(2000).reshape(2000, -1), np.random.default_rng(0)
    for part, counts in (("train", [len(c) for c in np.array_split(np.empty(n), 10)]), ("val", [2000])):
        with zipfile.ZipFile(folder / f"Imagenet32_{part}_npz.zip", "w") as archive:
            for i, count in enumerate(counts):
                name = f"train_data_batch_{i + 1}.npz" if part == "train" else "val_data.npz"
                with archive.open(name, "w", force_zip64=True) as file:
                    labels = rng.integers(1, 1001, count)
                    np.savez(file, data=pool[rng.integers(0, 2000, count)], labels=labels, mean=np.zeros(3072))


def make_celeba_hq(folder: Path, n: int) -> None:
    """PNG pictures: 500 different ones, then hard links to them."""
    pool = [archives.encode(image, "PNG") for image in archives.pictures(500, 256)]
    for i in range(n):
        path = folder / f"{i:05d}.png"
        path.write_bytes(pool[i]) if i < len(pool) else os.link(folder / f"{i % len(pool):05d}.png", path)


MAKERS = {"imagenet32": make_imagenet32, "celeba_hq": make_celeba_hq}


def measured(folder: Path, *arguments: str) -> tuple[float, float]:
    """Seconds and peak gigabytes of a stage."""
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", *arguments]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments[0]} ended with status {status}")
    return time.perf_counter() - start, usage.ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", choices=sorted(SIZES))
    parser.add_argument("--images", type=int, help="number of images (as published)")
    parser.add_argument("--threads", type=int, default=2, help="threads of the fit (%(default)s)")
    parser.add_argument("--folder", type=Path, help="where to work (a temporary folder)")
    args = parser.parse_args()
    n = args.images or SIZES[args.set]
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        files = folder / "files"
        files.mkdir()
        # in a process of its own: a child's peak starts at its parent's size
        making = get_context("spawn").Process(target=MAKERS[args.set], args=(files, n))
        making.start()
        making.join()
        if making.exitcode:
            sys.exit("the synthetic set could not be made")
        content = smoke.smoke_params()
        content["compute"]["cpu_threads"] = args.threads
        sums = {path.name: f"sha256:{sha256(path)}" for path in files.glob("*.zip")}
        size = {"imagenet32": 32, "celeba_hq": 128}[args.set]
        content["dataset"] |= {"source": args.set, "image_size": size, "downloads": str(files), "checksums": sums}
        content["dataset"] |= {"path": str(files), "n_test": 0, "n_source": n}
        content["suite"]["compared"] = {}  # which would be of that source, too
        (folder / "params.yaml").write_text(yaml.safe_dump(content))
        of_set = ("--dataset", "digits")  # the only entry of these parameters
        prepared = measured(folder, "stages.dataset", *of_set, "--out", "data")
        fitted = measured(folder, "stages.gaussian", *of_set, "--train", "data/train.npz", "--out", "gaussian.npz")
        print(f"{args.set}, {n:,} images of {size} pixels, {(folder / 'data/train.npz').stat().st_size / 1e9:.2f} GB")
        for stage, (seconds, gigabytes) in (("dataset", prepared), ("gaussian", fitted)):
            print(f"{stage:10} {seconds:8.1f} s {gigabytes:8.2f} GB peak")


if __name__ == "__main__":
    main()
