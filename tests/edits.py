"""Edits of a project, as a user makes them: those that change no number, and those that do."""

from collections.abc import Callable
from pathlib import Path

import yaml
from engines import write_params


def edit_text(path: str, old: str, new: str) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        text = (folder / path).read_text()
        assert old in text, (path, old)
        (folder / path).write_text(text.replace(old, new))

    return edit


def append(path: str, line: str) -> Callable[[Path], None]:
    return lambda folder: (folder / path).write_text((folder / path).read_text() + line)


def set_param(section: str, key: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = yaml.safe_load((folder / "params.yaml").read_text())
        assert content[section][key] != value
        content[section][key] = value
        write_params(folder, content)

    return edit


HARMLESS = {
    "a comment": append("mebm/training/loop.py", "\n# a comment\n"),
    "a comment in what draws grids": append("mebm/figures/grids.py", "\n# a comment\n"),
    "a docstring": edit_text("mebm/method/sgld.py", '"""Stochastic', '"""Anew. Stochastic'),
    "line ends": lambda folder: (folder / "mebm/method/loss.py").write_bytes(
        (folder / "mebm/method/loss.py").read_bytes().replace(b"\n", b"\r\n")
    ),
    "the words of an error": edit_text("mebm/training/run.py", "the data set has no labels", "there are no labels"),
    "a module that training does not reach": append("mebm/analyses/curves.py", "\nunused = 1\n"),
    "a module that carries files": append("mebm/files.py", "\nunused = 1\n"),
    "an algorithm that is not used": lambda folder: (folder / "mebm/method/algorithms/other.py").write_text("x = 1\n"),
    **{
        f"compute.{key}": set_param("compute", key, value)
        for key, value in {
            "device": "cpu",
            "cpu_threads": 2,
            "deterministic": False,
            "eval_batch_size": 7,
            "save_every": 3,
            "cpu_hours": None,
            "trackers": [],
        }.items()
    },
    "dataset.downloads": set_param("dataset", "downloads", "elsewhere"),
    "dataset.urls": set_param("dataset", "urls", {"cifar-10-python.tar.gz": "https://mirror/cifar.tar.gz"}),
    "another order of keys": lambda folder: write_params(
        folder, dict(reversed(yaml.safe_load((folder / "params.yaml").read_text()).items()))
    ),
}
DECISIVE = {
    "a constant": edit_text("mebm/training/watch.py", "LOSS_LIMIT = 1e5", "LOSS_LIMIT = 1e4"),
    "an operator": edit_text("mebm/method/loss.py", "energy_pos.mean() - ", "energy_pos.mean() + "),
    "the algorithm": append("mebm/method/algorithms/published.py", "\nunused = 1\n"),
    "an order": edit_text("mebm/seeds.py", '"big"', '"little"'),
    "a new import that computes": append(
        "mebm/method/sgld.py", "\nfrom mebm.measure.metrics import frechet_distance\n"
    ),
    "train.lr": set_param("train", "lr", 0.05),
    "train.seed": set_param("train", "seed", 5),
    "compute.devices, each with its own statistics": set_param("compute", "devices", 2),
}
