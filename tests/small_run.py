"""A run that is small enough for tests of analyses: files as the pipeline leaves them, and a stage called on them."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import numpy as np
import smoke
import torch
import torch.nn.functional as F
import yaml
from torch import nn

from mebm.data.archives import save_images
from mebm.data.images import ImageSet, bytes_to_unit
from mebm.method.energy import EnergyModel, build_model
from mebm.training.checkpoint import Checkpoint, save_checkpoint

ARCHITECTURE = {"depth": 10, "width": 1, "head": "energy", "norm": "batch", "dropout": 0.0}


class Pixels(nn.Module):
    """A backbone whose features are the pixels, so that energy and logits are linear in the image."""

    def __init__(self, n_features: int):
        super().__init__()
        self.n_features = n_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.flatten(1)


def linear_model(shape: tuple[int, int, int], n_classes: int, seed: int = 0) -> EnergyModel:
    """A model that is linear in the pixels."""
    torch.manual_seed(seed)
    return EnergyModel(Pixels(int(np.prod(shape))), n_classes).eval()


def classifier(images: ImageSet, iterations: int = 60) -> EnergyModel:
    """A small network after a few steps of Adam on the cross-entropy, in evaluation mode."""
    torch.manual_seed(0)
    model = build_model(images.shape, images.n_classes, **ARCHITECTURE)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(iterations):
        index = torch.randint(len(images), (64,))
        loss = F.cross_entropy(model.logits(bytes_to_unit(images.images[index])), images.labels[index])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return model.eval()


@dataclass
class SmallRun:
    """Files of a run in `folder`; `call` runs a stage on them."""

    folder: Path

    def write_checkpoint(
        self, model: EnergyModel, shape: tuple[int, int, int], n_classes: int, pyx_weight: float
    ) -> None:
        settings = {**ARCHITECTURE, "pyx_weight": pyx_weight}
        buffer = torch.zeros(2, *shape)
        save_checkpoint(self.folder / "checkpoint.pt", Checkpoint(model, buffer, settings, shape, n_classes, 1))

    def write_images(self, name: str, images: torch.Tensor, labels: torch.Tensor | None = None) -> Path:
        save_images(self.folder / name, images.numpy(), None if labels is None else labels.numpy())
        return self.folder / name

    def call(self, stage: ModuleType, *argv: object, out: str = "out") -> int:
        """The exit status of the stage on checkpoint.pt and test.npz, with the smoke parameters."""
        (self.folder / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
        arguments = ["--run", "mjem", "--params", self.folder / "params.yaml", "--logs", self.folder / "logs"]
        arguments += ["--checkpoint", self.folder / "checkpoint.pt", "--test", self.folder / "test.npz"]
        return stage.main([str(word) for word in (*arguments, "--out", self.folder / out, *argv)])

    def record(self, out: str = "out") -> dict:
        """metrics.json, in which nothing may be NaN."""

        def refuse(constant: str) -> None:
            raise AssertionError(f"{constant} in metrics.json")

        return json.loads((self.folder / out / "metrics.json").read_text(), parse_constant=refuse)

    def files(self, out: str = "out") -> dict[str, bytes]:
        """Contents of everything that the stage wrote, by path."""
        folder = self.folder / out
        found = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".mebm.")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def refuses_on_a_full_disk(run: SmallRun, stage, digits, monkeypatch, capsys) -> None:
    """A stage whose figure cannot be written leaves nothing, with held-out images and without."""

    def full(*args, **options):
        raise OSError(28, "No space left on device")

    for name in ("figure", "message"):
        monkeypatch.setattr(stage, name, full)
    assert run.call(stage) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert run.files() == {}
    run.write_images("test.npz", digits.images[:0], digits.labels[:0])
    assert run.call(stage) == 1
    assert run.files() == {}
