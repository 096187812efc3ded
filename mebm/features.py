"""The network in whose features quality is measured, and the statistics of those features.

Here it is a small classifier trained on the training split. A distance in its features is called `fcd` (Frechet
classifier distance) and its score `classifier_score`; FID and Inception score are the same formulas with Inception's
features, and values of different networks do not compare.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

from mebm.data import BatchStream, ImageSet, augment, bytes_to_unit
from mebm.errors import CheckpointError, DataError
from mebm.files import replacing, require
from mebm.gaussian import StreamingMoments
from mebm.params import Features
from mebm.seeds import generator_for

FORMAT = "mebm feature classifier"
DISTANCE, SCORE = "fcd", "classifier_score"


class FeatureClassifier(nn.Module):
    """Three 3x3 convolutions with BatchNorm and ReLU, the map halved after each while it is larger than 4.

    Images [B, C, H, W] in [-1, 1] to features [B, 2 width] (mean over the last map) and logits [B, n_classes].
    """

    def __init__(self, channels: int, n_classes: int, width: int):
        super().__init__()
        layers = []
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 2 * width)):
            layers.append(nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(2 * width, n_classes)
        self.n_features = 2 * width

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for layer in self.layers:
            x = layer(x)
            if x.shape[-1] > 4:
                x = nn.functional.max_pool2d(x, 2)
        features = x.mean(dim=(2, 3))
        return features, self.head(features)


def train_classifier(settings: Features, data: ImageSet, device: torch.device) -> FeatureClassifier:
    """Train the feature classifier by Adam with a one-cycle rate. Raises DataError for a data set without labels."""
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
        x = bytes_to_unit(augment(data.images[picked], settings.augment_pad, settings.augment_flip, crop))
        loss = nn.functional.cross_entropy(network(x)[1], data.labels[picked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def save_network(path: str | Path, network: FeatureClassifier, shape: tuple[int, int, int]) -> None:
    """Write a feature network atomically."""
    record = {
        "format": FORMAT,
        "shape": tuple(shape),
        "width": network.n_features // 2,
        "n_classes": network.head.out_features,
        "model_state_dict": {key: value.cpu() for key, value in network.state_dict().items()},
    }
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(record, file)


def load_network(path: str | Path, device: torch.device | str = "cpu") -> tuple[FeatureClassifier, tuple]:
    """Read a feature network, in evaluation mode on `device`, and the image shape (C, H, W) that it takes."""
    require(path)
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}")
        network = FeatureClassifier(record["shape"][0], record["n_classes"], record["width"])
        network.load_state_dict(record["model_state_dict"])
    except Exception as error:  # torch, zipfile and pickle raise many types for a damaged file
        raise CheckpointError(
            f"{path}: is not a readable feature network ({' '.join(str(error).split())[:120]}); delete it and run the "
            "features stage again"
        ) from error
    return network.to(device).eval(), tuple(record["shape"])


@torch.no_grad()
def extract(network: FeatureClassifier, images: Tensor, batch_size: int) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] (N - 1) of the features of images, float64, and their logits [N, n_classes].

    images: uint8 [N, C, H, W]. Features stream: they are not kept. Raises DataError for fewer than two images.
    """
    device = next(network.parameters()).device
    moments = StreamingMoments(network.n_features, device)
    logits = []
    for batch in images.split(batch_size):
        features, batch_logits = network(bytes_to_unit(batch.to(device)))
        moments.update(features)
        logits.append(batch_logits)
    return moments.mean.cpu(), moments.covariance(ddof=1).cpu(), torch.cat(logits).cpu()
