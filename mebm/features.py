"""The networks in whose features quality is measured, and the statistics of those features.

Either Inception, whose distance is FID and whose score is the Inception score, or a small classifier trained on the
training split: its distance is called `fcd` (Frechet classifier distance) and its score `classifier_score`. The
formulas are the same; values of different networks do not compare.
"""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mebm.data import BatchStream, ImageSet, augment, bytes_to_unit
from mebm.errors import CheckpointError, DataError
from mebm.files import read_npz, replacing, require, unreadable
from mebm.gaussian import StreamingMoments
from mebm.inception import InceptionFeatures
from mebm.params import Features
from mebm.seeds import generator_for

FORMAT = "mebm feature network"


class FeatureClassifier(nn.Module):
    """Three 3x3 convolutions with BatchNorm and ReLU, the map halved after each while it is larger than 4.

    Images as bytes, uint8 [B, C, H, W], to features [B, 2 width] (mean over the last map) and logits [B, n_classes].
    """

    distance, score, score_std = "fcd", "classifier_score", "classifier_score_std"
    preprocessing, weights_sha256 = "classifier", None

    def __init__(self, channels: int, n_classes: int, width: int):
        super().__init__()
        layers = []
        for a, b in ((channels, width), (width, 2 * width), (2 * width, 2 * width)):
            layers.append(nn.Sequential(nn.Conv2d(a, b, 3, padding=1, bias=False), nn.BatchNorm2d(b), nn.ReLU()))
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(2 * width, n_classes)
        self.n_features = 2 * width

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = bytes_to_unit(images)
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
        views = augment(data.images[picked], settings.augment_pad, settings.augment_flip, crop)
        loss = nn.functional.cross_entropy(network(views)[1], data.labels[picked])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
    return network.eval()


def save_network(path: str | Path, network: FeatureClassifier | InceptionFeatures) -> None:
    """Write a feature network atomically."""
    if isinstance(network, InceptionFeatures):
        record = {"network": "inception", "preprocessing": network.preprocessing}
        record |= {"weights_sha256": network.weights_sha256}
        weights = network.net
    else:
        shape = {"channels": network.layers[0][0].in_channels, "n_classes": network.head.out_features}
        record = {"network": "classifier", "width": network.n_features // 2, **shape}
        weights = network
    record |= {"format": FORMAT, "model_state_dict": {k: v.cpu() for k, v in weights.state_dict().items()}}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        torch.save(record, file)


def load_network(path: str | Path, device: torch.device | str = "cpu") -> FeatureClassifier | InceptionFeatures:
    """Read a feature network, in evaluation mode on `device`."""
    require(path)
    try:
        record = torch.load(path, map_location="cpu", weights_only=True)
        if record["format"] != FORMAT:
            raise ValueError(f"format {record['format']!r}")
        if record["network"] == "inception":
            network = InceptionFeatures(record["model_state_dict"], record["preprocessing"], record["weights_sha256"])
        else:
            network = FeatureClassifier(record["channels"], record["n_classes"], record["width"])
            network.load_state_dict(record["model_state_dict"])
    except Exception as error:  # torch, zipfile and pickle raise many types for a damaged file
        raise CheckpointError(
            f"{path}: is not a readable feature network ({unreadable(error)}); give another file, or make it again "
            "with the features stage"
        ) from error
    return network.to(device).eval()


@torch.no_grad()
def stream(
    network: FeatureClassifier | InceptionFeatures, images: Tensor, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Features [n, D] and logits [n, n_classes] of images, uint8 [N, C, H, W], batch by batch on the network's device.

    Always float32: TensorFloat-32, the default of convolutions on GPUs, moves features in the third digit.
    """
    device = next(network.parameters()).device
    for batch in images.split(batch_size):
        exact = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False)
        with exact if device.type == "cuda" else nullcontext():
            result = network(batch.to(device))
        yield result


@torch.no_grad()
def extract(
    network: FeatureClassifier | InceptionFeatures, images: Tensor, batch_size: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [D] and covariance [D, D] (N - 1) of the features of images, float64, and their logits [N, n_classes].

    images: uint8 [N, C, H, W]. Features stream: they are not kept. Raises DataError for fewer than two images.
    """
    moments = StreamingMoments(network.n_features, next(network.parameters()).device)
    logits = []
    for features, batch_logits in stream(network, images, batch_size):
        moments.update(features)
        logits.append(batch_logits)
    return moments.mean.cpu(), moments.covariance(ddof=1).cpu(), torch.cat(logits).cpu()


def read_statistics(path: str | Path, network: FeatureClassifier | InceptionFeatures) -> tuple[Tensor, Tensor]:
    """Mean [D] and covariance [D, D] of a reference file, such as pytorch-fid writes, for features of `network`.

    Raises DataError where the file's preprocessing is another than the network's. A file that does not name one comes
    from pytorch-fid.
    """
    arrays = read_npz(path, "mu", "sigma", optional=("preprocessing",))
    made_with = str(arrays.get("preprocessing", "pytorch_fid"))
    if made_with != network.preprocessing:
        raise DataError(
            f"{path}: holds statistics with the preprocessing {made_with}, but the features use "
            f"{network.preprocessing}; they do not compare. Change features.preprocessing or reference.file"
        )
    mu, sigma = (torch.from_numpy(np.asarray(arrays[key], np.float64)) for key in ("mu", "sigma"))
    if mu.shape != (network.n_features,) or sigma.shape != (network.n_features,) * 2:
        raise DataError(f"{path}: holds statistics of {list(mu.shape)} features, expected {network.n_features}")
    return mu, sigma
