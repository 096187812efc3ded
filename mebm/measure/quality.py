"""Quality of a set of images against the reference statistics of the training images, with its conditions."""

from pathlib import Path

import torch
from torch import Tensor

from mebm.errors import DataError
from mebm.files import numbers, read_npz, sha256
from mebm.measure.features import extract, load_network
from mebm.measure.metrics import frechet_distance, inception_style_score
from mebm.measure.networks import metrics_of

# Of held-out images. On digits, classifiers of 96 % that differ in their seed put sets of images in the same order
# (rank correlation 0.986); what less accurate ones do has not been measured.
LOW_ACCURACY = 0.9


class QualityMeter:
    """Scores image sets by one feature network and one reference; both are read and checked once.

    Raises DataError where the reference was made with another network or another preprocessing.
    """

    def __init__(self, features: Path, reference: Path, device: torch.device, batch_size: int):
        self.network = load_network(features, device)
        self.distance, self.score, self._score_std = metrics_of(self.network)  # names of the metrics
        arrays = read_npz(reference, "mu", "sigma", "count", "shape", "preprocessing", "features_sha256")
        self._hashes = {"features_sha256": sha256(features), "reference_sha256": sha256(reference)}
        if str(arrays["features_sha256"]) != self._hashes["features_sha256"]:
            raise DataError(f"{reference}: was made with another network than {features}; run the reference stage")
        n = self.network.n_features
        self.mu = torch.from_numpy(numbers(reference, "mu", arrays["mu"], (n,)))
        self.sigma = torch.from_numpy(numbers(reference, "sigma", arrays["sigma"], (n, n)))
        # (C, H, W) of the training images
        self.shape = tuple(int(side) for side in numbers(reference, "shape", arrays["shape"], (3,)))
        # 0: a file from elsewhere, which does not say
        self.reference_count = int(numbers(reference, "count", arrays["count"], ())) or None
        self.batch_size = batch_size

    def measure(self, images: Tensor, splits: int, permutation_seed: int, few: bool = False) -> dict:
        """Distance, score and share of each class as the feature network predicts it, of uint8 [N, C, H, W].

        A `warning` says so where the images are too few for a covariance of full rank. Fewer images than splits raise
        MetricError, and a single one DataError; with `few` what is not defined is null, and `status` says why.
        """
        if few and len(images) < 2:
            return {**self.missing("a distance and a score need more than 1 image"), "n_images": len(images)}
        mu, sigma, logits = extract(self.network, images, self.batch_size)
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

    def headline(self, record: dict) -> str:
        """Distance and score in words, for logs."""
        names = (self.distance, self.score)
        return ", ".join(f"{name} {record[name]:.3f}" for name in names)

    def missing(self, reason: str) -> dict:
        """The record of a set that cannot be measured: nulls and the reason."""
        return {self.distance: None, self.score: None, "status": reason, "n_images": 0}

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
        """Share of each class, where the network knows the data set's classes (Inception knows others)."""
        if not self.network.knows_classes:
            return {}
        shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double() / len(logits)
        return {"class_shares": [round(float(share), 6) for share in shares]}
