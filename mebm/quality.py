"""Quality of a set of images against the reference statistics of the training images, with its conditions."""

from pathlib import Path

import torch
from torch import Tensor

from mebm.errors import DataError
from mebm.features import DISTANCE, SCORE, extract, load_network
from mebm.files import read_npz, sha256
from mebm.metrics import frechet_distance, inception_style_score


class QualityMeter:
    """Scores image sets by one feature network and one reference; both are read and checked once.

    Raises DataError where the reference was made with another network.
    """

    def __init__(self, features: Path, reference: Path, device: torch.device, batch_size: int):
        self.network, self.shape = load_network(features, device)
        arrays = read_npz(reference, "mu", "sigma", "count", "features_sha256")
        self._hashes = {"features_sha256": sha256(features), "reference_sha256": sha256(reference)}
        if str(arrays["features_sha256"]) != self._hashes["features_sha256"]:
            raise DataError(f"{reference}: was made with another network than {features}; run the reference stage")
        self.mu, self.sigma = torch.from_numpy(arrays["mu"]), torch.from_numpy(arrays["sigma"])
        self.reference_count = int(arrays["count"])
        self.batch_size = batch_size

    def measure(self, images: Tensor, splits: int, permutation_seed: int) -> dict:
        """Distance, score and share of each class as the feature network predicts it, of uint8 [N, C, H, W]."""
        mu, sigma, logits = extract(self.network, images, self.batch_size)
        score_mean, score_std = inception_style_score(logits, splits, permutation_seed)
        shares = torch.bincount(logits.argmax(1), minlength=logits.shape[1]).double() / len(logits)
        return {
            DISTANCE: frechet_distance(self.mu, self.sigma, mu, sigma),
            SCORE: score_mean,
            f"{SCORE}_std": score_std,
            "class_shares": [round(float(share), 6) for share in shares],
            "n_images": len(images),
            "n_reference": self.reference_count,
            "score_splits": splits,
            "permutation_seed": permutation_seed,
            **self._hashes,
        }
