"""Quality of a set of images against the reference statistics of the training images, with its conditions."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mebm.data.moments import covariance_fault
from mebm.errors import DataError, MetricError
from mebm.files import AGAIN, numbers, read_npz, sha256
from mebm.measure.features import extract, load_network
from mebm.measure.metrics import frechet_distance, inception_style_score, precision_recall
from mebm.measure.networks import metrics_of

# Of held-out images. On digits, classifiers of 96 % that differ in their seed put sets of images in the same order
# (rank correlation 0.986); what less accurate ones do has not been measured.
LOW_ACCURACY = 0.9


class QualityMeter:
    """Scores image sets by one feature network and one reference; both are read and checked once.

    Raises DataError where the reference was made with another network or another preprocessing, or is damaged.
    """

    def __init__(self, features: Path, reference: Path, device: torch.device, batch_size: int):
        self.network = load_network(features, device)
        self.distance, self.score, self._score_std = metrics_of(self.network)  # names of the metrics
        names = ("mu", "sigma", "count", "shape", "preprocessing", "features_sha256")
        arrays = read_npz(reference, *names, optional=("features",))
        self._hashes = {"features_sha256": sha256(features), "reference_sha256": sha256(reference)}
        if str(arrays["features_sha256"]) != self._hashes["features_sha256"]:
            raise DataError(f"{reference}: was made with another network than {features}; run the reference stage")
        n = self.network.n_features
        self.mu = torch.from_numpy(numbers(reference, "mu", arrays["mu"], (n,)))
        self.sigma = torch.from_numpy(numbers(reference, "sigma", arrays["sigma"], (n, n)))
        if fault := covariance_fault(self.sigma):
            raise DataError(f"{reference}: sigma is no covariance matrix: {fault}; {AGAIN}")
        # of single training images, in random order; none in a reference from elsewhere
        known = arrays.get("features", np.empty((0, n), np.float32))
        self.features = torch.from_numpy(numbers(reference, "features", known, (None, n))).float()
        # (C, H, W) of the training images
        self.shape = tuple(int(side) for side in numbers(reference, "shape", arrays["shape"], (3,)))
        # 0: a file from elsewhere, which does not say
        self.reference_count = int(numbers(reference, "count", arrays["count"], ())) or None
        self.batch_size = batch_size

    def measure(
        self, images: Tensor, splits: int, permutation_seed: int, neighbours: int | None = None, few: bool = False
    ) -> dict:
        """Distance, score and share of each class as the feature network predicts it, of uint8 [N, C, H, W].

        With `neighbours` also precision and recall, of as many images as training images
        (docs/method.md, Precision and recall). A `warning` says so where the images are too few for a covariance of
        full rank. Fewer images than splits raise MetricError, and a single one DataError; with `few` what is not
        defined is null, and `status` says why.
        """
        if few and len(images) < 2:
            return {**self.missing("a distance and a score need more than 1 image"), "n_images": len(images)}
        # of images that are in the order of their classes, the first ones would be of a few classes
        order = torch.from_numpy(np.random.RandomState(permutation_seed).permutation(len(images)))
        kept = order[: 0 if neighbours is None else len(self.features)]
        mu, sigma, logits, features = extract(self.network, images, self.batch_size, kept)
        if few and len(images) < splits:
            score_mean = score_std = None
            status = {"status": f"{len(images)} images cannot be split into {splits} parts, so there is no score"}
        else:
            (score_mean, score_std), status = inception_style_score(logits, splits, permutation_seed), {}
        too_few = len(images) <= self.network.n_features
        warning = (
            f"{len(images)} images do not fill {self.network.n_features} dimensions: the distance is biased upwards"
        )
        return {
            self.distance: frechet_distance(self.mu, self.sigma, mu, sigma),
            self.score: score_mean,
            self._score_std: score_std,
            **({} if neighbours is None else self._precision_recall(features, neighbours)),
            **self.shares(logits),
            **self.trust(),
            "warning": warning if too_few else None,
            "n_images": len(images),
            "n_reference": self.reference_count,
            "reference_split": "train" if self.reference_count else None,  # of a file from elsewhere nothing is known
            "score_splits": splits,
            "permutation_seed": permutation_seed,
            "preprocessing": self.network.preprocessing,
            "weights_sha256": self.network.weights_sha256,
            **self._hashes,
            **status,
        }

    def _precision_recall(self, features: Tensor, neighbours: int) -> dict:
        """precision and recall of features [n, D] beside the first n of the reference, or null and the reason."""
        n, status, precision, recall = len(features), "ok", None, None
        if not len(self.features):
            status = "the reference file holds no features of single images"
        elif n <= neighbours:
            status = f"{n} images are too few for {neighbours} neighbours (quality.neighbours)"
        else:
            device = next(self.network.parameters()).device
            precision, recall = precision_recall(self.features[:n].to(device), features.to(device), neighbours)
        found = {"precision": precision, "recall": recall, "precision_status": status}
        return {**found, "neighbours": neighbours, "n_features": n}

    def headline(self, record: dict) -> str:
        """The main numbers in words, for logs."""
        names = (self.distance, self.score, "precision", "recall")
        return ", ".join(f"{name} {record[name]:.3f}" for name in names if record.get(name) is not None)

    def missing(self, reason: str) -> dict:
        """The record of a set that cannot be measured: nulls and the reason."""
        names = (self.distance, self.score, "precision", "recall")
        return {**dict.fromkeys(names), "status": reason, "n_images": 0}

    def trust(self) -> dict:
        """How accurate a network is that was trained on the data set's classes, and a warning where that is low."""
        accuracy = self.network.accuracy
        if accuracy is None:
            return {}
        warning = (
            f"the feature classifier is right on {100 * accuracy:.1f} % of held-out images, less than "
            f"{100 * LOW_ACCURACY:.0f} %: what {self.distance} says of images is uncertain"
        )
        low = accuracy < LOW_ACCURACY
        return {"features_accuracy": accuracy, "features_warning": warning if low else None}

    def shares(self, logits: Tensor) -> dict:
        """Share of each class, where the network knows the data set's classes (Inception knows others).

        Raises MetricError for logits that are not finite.
        """
        if not self.network.knows_classes:
            return {}
        if not bool(torch.isfinite(logits).all()):
            raise MetricError("class logits of the feature network are not finite; run the features stage")
        shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double() / len(logits)
        return {"class_shares": [round(float(share), 6) for share in shares]}
