"""A small classifier, trained on the data set's own training images.

Its Frechet distance is called `fcd` (Frechet classifier distance) and its score `classifier_score`. The formulas are
those of FID and Inception Score, but the values cannot be compared with these.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mebm.data.batches import BatchStream, augment
from mebm.data.images import MAX_CLASSES, ImageSet, bytes_to_unit, load_images
from mebm.errors import CheckpointError, DataError
from mebm.files import check_state
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.features import extract
from mebm.seeds import generator_for
from mebm.settings.schema import Features

DISTANCE = "fcd"
SCORE = "classifier_score"
SCORE_STD = "classifier_score_std"


class FeatureClassifier(nn.Module):
    """Three 3x3 convolutions with BatchNorm and ReLU, the map halved after each while it is larger than 4.

    Images as bytes, uint8 [B, C, H, W], to features [B, 2 width] (mean over the last map) and logits [B, n_classes].
    """

    title, preprocessing, weights_sha256, knows_classes = "the small classifier", "classifier", None, True

    def __init__(self, channels: int, n_classes: int, width: int, accuracy: float | None = None):
        super().__init__()
        layers = []
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 2 * width)):
            layers.append(nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(2 * width, n_classes)
        self.n_features, self.channels, self.accuracy = 2 * width, channels, accuracy

    def state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Sizes, accuracy and weights."""
        sizes = {"channels": self.channels, "n_classes": self.head.out_features, "width": self.n_features // 2}
        return {**sizes, "accuracy": self.accuracy}, self.state_dict()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = bytes_to_unit(images)
        for layer in self.layers:
            x = layer(x)
            if x.shape[-1] > 4:
                x = nn.functional.max_pool2d(x, 2)
        features = x.mean(dim=(2, 3))
        return features, self.head(features)


def train(settings: Features, data: ImageSet, device: torch.device) -> FeatureClassifier:
    """A classifier trained by Adam with a one-cycle rate. Raises DataError for a data set without labels."""
    if data.labels is None:
        raise DataError("the data set has no labels, so no feature classifier can be trained on it")
    data = data.to(device)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = FeatureClassifier(data.shape[0], data.n_classes, settings.width)
    network.to(device).train()
    stream = BatchStream(len(data), settings.batch_size, generator_for("classifier batches", settings.seed), device)
    crop = generator_for("classifier augmentation", settings.seed)
    optimiser = torch.optim.Adam(network.parameters(), settings.lr)
    total = stream.batches_per_pass * settings.epochs
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.lr, total_steps=total)
    for _ in range(total):
        picked = stream.next()
        views = augment(data.images[picked], settings.augment_pad, settings.augment_flip, crop)
        loss = nn.functional.cross_entropy(network(views)[1], data.labels[picked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def make(
    settings: Features, train_images: Path, test_images: Path, device: torch.device, batch_size: int
) -> tuple[FeatureClassifier, dict[str, Any]]:
    """A classifier trained on one archive, and its accuracy and cross-entropy on the other."""
    data = load_images(train_images)
    test = load_images(test_images, data.shape)
    network = train(settings, data, device)
    network.accuracy, loss = accuracy_and_loss(extract(network, test.images, batch_size)[2], test.labels)
    return network, {"accuracy": network.accuracy, "loss": loss, "n_images": len(test)}


def rebuild(record: dict[str, Any]) -> FeatureClassifier:
    """The network of a file. Raises CheckpointError for sizes and weights that are not a classifier's."""
    sizes = [record[key] for key in ("channels", "n_classes", "width")]
    if not all(type(size) is int and 0 < size <= MAX_CLASSES for size in sizes):
        raise CheckpointError(f"channels, n_classes and width are {str(sizes)[:80]}")
    accuracy = record["accuracy"]
    if accuracy is not None and not (isinstance(accuracy, float) and 0 <= accuracy <= 1):
        raise CheckpointError(f"its accuracy is {str(accuracy)[:40]}")
    with torch.device("meta"):  # so that a size out of range costs nothing
        expected = FeatureClassifier(*sizes).state_dict()
    check_state(record["model_state_dict"], expected)
    network = FeatureClassifier(*sizes, accuracy)
    network.load_state_dict(record["model_state_dict"])
    return network
