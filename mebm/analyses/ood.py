"""Out-of-distribution images: made, or brought to the shape of the training images; scored; and told apart.

Scores are oriented so that HIGH means in-distribution, as in the paper: f = -E, the largest class probability
(Hendrycks and Gimpel 2017), and minus the norm of the energy's gradient (Grathwohl et al. 2020). In-distribution
images are the positive class throughout.
"""

import numpy as np
import torch
import torch.nn.functional as F
from scipy.special import logsumexp
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve
from torch import Tensor

from mebm.measure.evaluation import gradient_norms, score
from mebm.method.energy import EnergyModel
from mebm.seeds import choice, generator_for

SCORES = ("negative_energy", "class_probability", "negative_gradient_norm")
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in a grey level, ITU-R BT.601, as PIL's convert("L")


def choose(images: Tensor, n: int, purpose: str, seed: int) -> Tensor:
    """At most n of the images [N, C, H, W], without replacement, in random order."""
    return images[choice(len(images), n, purpose, seed)]


def to_shape(images: Tensor, shape: tuple[int, int, int], batch_size: int = 500) -> Tensor:
    """Images as bytes of another shape (C, H, W): uint8 [N, C, H, W] to uint8 [N, *shape].

    Grey is repeated to red, green and blue; colours become grey by `LUMA`; the size changes by bilinear interpolation,
    antialiased where it shrinks, as torchvision's resize does; one rounding to bytes at the end. Images that have the
    shape already come back as they are.
    """
    if tuple(images.shape[1:]) == tuple(shape):
        return images
    weights = torch.tensor(LUMA).view(1, 3, 1, 1)
    parts = []
    for batch in images.split(batch_size):
        x = batch.float()
        if len(x[0]) == 3 and shape[0] == 1:
            x = (x * weights).sum(dim=1, keepdim=True)
        if x.shape[2:] != tuple(shape[1:]):
            x = F.interpolate(x, size=tuple(shape[1:]), mode="bilinear", antialias=True, align_corners=False)
        parts.append(x.round().clamp(0, 255).to(torch.uint8).expand(-1, shape[0], -1, -1))
    return torch.cat(parts)


def make(kind: str, images: Tensor, seed: int) -> Tensor:
    """As many images as there are in `images` (uint8 [N, C, H, W], in random order), made and not photographed.

    kind: "interpolated", the mean of two of them (each with the next one, so with itself only where N is 1), halves
    rounded up; "constant", one grey level or colour per picture; "noise", bytes that are uniform and independent.
    """
    if kind == "interpolated":
        return ((images.int() + images.roll(1, dims=0).int() + 1) // 2).to(torch.uint8)
    generator = generator_for(f"ood {kind}", seed)
    size = (*images.shape[:2], 1, 1) if kind == "constant" else images.shape
    return torch.randint(0, 256, size, dtype=torch.uint8, generator=generator).expand(images.shape)


def log_odds(logits: np.ndarray) -> np.ndarray:
    """Log-odds of the largest class probability, [N], of logits [N, n_classes].

    They rank images as the probability does, which itself is 1 after rounding for many. A single class gives zeros.
    """
    if logits.shape[1] == 1:
        return np.zeros(len(logits))
    ordered = np.sort(logits.astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):  # of a run that diverged: not a number, which `separation` says
        return ordered[:, -1] - logsumexp(ordered[:, :-1], axis=1)


def full_batches(images: Tensor, batch_size: int) -> Tensor:
    """The images, and behind them as many from the first again as fill the last batch."""
    return images[torch.arange(-(-len(images) // batch_size) * batch_size) % len(images)]


def scores(
    model: EnergyModel, images: Tensor, batch_size: int, classifies: bool, bn_stats: str = "running"
) -> dict[str, np.ndarray]:
    """Each of `SCORES`, float64 [N], of images (uint8 [N, C, H, W]) of one set; high means in-distribution.

    bn_stats: as in `mebm.measure.evaluation.statistics`. With "batch" the scores are of the batches, too: these are the
    images in their order, `batch_size` at a time, the same ones for all scores. A last batch of fewer images would have
    other statistics, so it is filled up by the first images, which are not counted again. class_probability holds
    log-odds, and is left out where the model was not trained to classify.
    """
    n, images = len(images), full_batches(images, batch_size)
    seen = score(model, images, batch_size, bn_stats)
    found = {"negative_energy": -seen.energy.double().numpy()}
    if classifies:
        found["class_probability"] = log_odds(seen.logits.numpy())
    found["negative_gradient_norm"] = -gradient_norms(model, images, batch_size, bn_stats).double().numpy()
    return {name: values[:n] for name, values in found.items()}


def separation(inside: np.ndarray, outside: np.ndarray) -> dict[str, float | int | str | None]:
    """How well a score tells in-distribution images [N], the positives, from others [M]: fractions, and a `status`.

    auroc: the chance that an image of the first kind has the higher score of two, ties counting half; 0.5 without any
    difference, and below it where the score is reversed: rather lower for in-distribution images. average_precision:
    the sum over thresholds of precision times the step in recall; average_precision_by_chance, N / (N + M), is that of
    a score that says nothing. fpr_at_95_tpr: the smallest share of the others that passes a threshold which at least
    95 % of the in-distribution images pass (0 is best, 1 where all scores are equal). n_in_distribution and n_other: N
    and M. No auroc, average_precision and fpr_at_95_tpr (None) where a score is not finite.
    """
    both, positive = np.concatenate([inside, outside]), np.repeat([1, 0], [len(inside), len(outside)])
    auroc = precision = false_positives = None
    status = "ok"
    if lost := int((~np.isfinite(both)).sum()):
        status = f"the score of {lost} of {len(both)} images is not finite"
    else:
        false, true, _ = roc_curve(positive, both, drop_intermediate=False)
        auroc, precision = float(roc_auc_score(positive, both)), float(average_precision_score(positive, both))
        false_positives = float(false[true >= 0.95].min())
    return {
        "auroc": auroc,
        "average_precision": precision,
        "average_precision_by_chance": len(inside) / len(both),
        "fpr_at_95_tpr": false_positives,
        "n_in_distribution": len(inside),
        "n_other": len(outside),
        "status": status,
    }


def spread(energy: np.ndarray) -> dict[str, float | int | None]:
    """n_images, and the mean and standard deviation (ddof 0) of their energies; None where one is not finite."""
    known = np.isfinite(energy).all()
    mean, std = (float(energy.mean()), float(energy.std())) if known else (None, None)
    return {"n_images": len(energy), "energy_mean": mean, "energy_std": std}


def energy_range(energies: list[np.ndarray]) -> tuple[float, float]:
    """An axis for energies of several sets, of which the first is in-distribution.

    From the lowest 1st to the highest 99th percentile of the sets, but no further from those of the first than six
    times their distance: a set that lies far off must not squeeze it into one bin. (0, 1) without finite values.
    """
    ends = [np.percentile(kept, [1, 99]) for e in energies if len(kept := e[np.isfinite(e)])]
    if not ends:
        return 0.0, 1.0
    low, high = ends[0]
    room = 6 * max(high - low, 1e-6 * max(abs(low), abs(high), 1.0))
    low, high = float(max(min(e[0] for e in ends), low - room)), float(min(max(e[1] for e in ends), high + room))
    half = 0 if high > low else max(0.5, 1e-3 * abs(low))  # an axis has a length, also where all energies are equal
    return low - half, high + half
