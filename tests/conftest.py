"""Options, fixtures, the order of tests and the rule for GPU tests."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import smoke
import torch
from engines import copy_project, run

from mebm.data.images import ImageSet, load_images
from mebm.data.prepare import prepare


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--oracle",
        type=Path,
        default=Path(__file__).parent / "oracle",
        metavar="DIR",
        help="folder of known-good values in the format of tests/oracle (default)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # The long ones first: short ones fill the other worker's time, and none is left alone with a long one at the end.
    items.sort(key=lambda item: "slow" not in item.keywords)
    if not torch.cuda.is_available():
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session", autouse=True)
def _fixed_threads() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def oracle_dir(pytestconfig: pytest.Config) -> Path:
    """The folder given by --oracle."""
    return pytestconfig.getoption("oracle")


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> ImageSet:
    """The training split of the smoke parameters: 1,497 digits of 8x8."""
    folder = tmp_path_factory.mktemp("digits")
    prepare(smoke.section("dataset"), "digits", folder)
    return load_images(folder / "train.npz")


@pytest.fixture
def project(tmp_path: Path) -> Callable[..., Path]:
    """Makes a copy of the project's pipeline in a folder of that name, with the smoke parameters or other ones."""
    return lambda name, content=None: copy_project(tmp_path / name, content)


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A folder of that name, which one worker makes and all others wait for and find; to be copied, not changed."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def folder(name: str, make: Callable[[Path], object]) -> Path:
        made, done = root / name, root / f"{name}.done"
        with open(root / f"{name}.lock", "w", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(made, ignore_errors=True)
                make(made)
                done.touch()
        return made

    return folder


@pytest.fixture(scope="session")
def finished(made_once) -> Path:
    """A committed project whose suite, without analyses, Snakemake has made."""

    def make(folder: Path) -> None:
        copy_project(folder, smoke.small_params())
        run(folder, "git", "config", "user.name", "x")
        run(folder, "git", "config", "user.email", "x@example.org")
        run(folder, "snakemake")
        run(folder, "git", "add", "--all")
        run(folder, "git", "commit", "--quiet", "--message", "results")

    return made_once("finished", make)


@pytest.fixture
def smoke_params() -> dict:
    """A fresh copy of the smoke parameters."""
    return smoke.smoke_params()
