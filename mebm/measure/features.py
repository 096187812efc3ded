"""The networks in whose features quality is measured, and the statistics of those features.

Either Inception, whose distance is FID and whose score is the Inception score, or a small classifier trained on the
training split: its distance is called `fcd` (Frechet classifier distance) and its score `classifier_score`. The
formulas are the same; values of different networks do not compare.
"""

import re
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn

from mebm.data.batches import BatchStream, augment
from mebm.data.images import MAX_CLASSES, ImageSet, bytes_to_unit
from mebm.data.moments import StreamingMoments
from mebm.errors import CheckpointError, DataError
from mebm.files import check_state, numbers, read_npz, read_torch, replacing, unreadable
from mebm.measure.inception import InceptionFeatures
from mebm.seeds import generator_for
from mebm.settings.schema import Features

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
    advice = "give another file, or make it again with the features stage"
    record = read_torch(path, "feature network", advice)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is not a readable feature network (it is another file of torch); {advice}")
    try:
        if record.get("network") not in ("classifier", "inception"):
            raise CheckpointError("it holds another network")
        if record["network"] == "inception":
            _check_hash(record.get("weights_sha256"))
            network = InceptionFeatures(record["model_state_dict"], record["preprocessing"], record["weights_sha256"])
        else:
            sizes = [record[key] for key in ("channels", "n_classes", "width")]
            if not all(type(size) is int and 0 < size <= MAX_CLASSES for size in sizes):
                raise CheckpointError(f"channels, n_classes and width are {str(sizes)[:80]}")
            with torch.device("meta"):  # so that a size out of range costs nothing
                expected = FeatureClassifier(*sizes).state_dict()
            check_state(record["model_state_dict"], expected)
            network = FeatureClassifier(*sizes)
            network.load_state_dict(record["model_state_dict"])
    except MemoryError:
        raise
    except Exception as error:  # torch raises many types for values that it cannot take
        reason = str(error) if isinstance(error, CheckpointError) else unreadable(error)
        raise CheckpointError(f"{path}: is not a readable feature network ({reason}); {advice}") from error
    return network.to(device).eval()


def _check_hash(value: object) -> None:
    if value is not None and not (isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value)):
        raise CheckpointError(f"weights_sha256 is {str(value)[:40]!r}")


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
    n = network.n_features
    if arrays["mu"].shape != (n,) or arrays["sigma"].shape != (n, n):
        raise DataError(f"{path}: holds statistics of {list(arrays['mu'].shape)} features, expected {n}")
    mu, sigma = (torch.from_numpy(numbers(path, key, arrays[key], arrays[key].shape)) for key in ("mu", "sigma"))
    if not torch.allclose(sigma, sigma.T) or bool((sigma.diagonal() < 0).any()):
        raise DataError(f"{path}: sigma is no covariance: it is not symmetric, or a variance is negative")
    return mu, sigma
