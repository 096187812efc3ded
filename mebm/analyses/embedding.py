"""How a model's features arrange data, samples and starts: t-SNE layouts, and numbers that do not depend on them.

Every number is of the feature space itself: a layout in two dimensions keeps neighbours, but neither distances nor
densities. Distances are Euclidean. One thread, whatever the caller has, because the order of sums changes the last
digits and t-SNE makes them visible.
"""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors
from threadpoolctl import threadpool_limits

from mebm.errors import MetricError

GROUPS = {"data": "data", "buffer": "replay buffer", "initial": "initial distribution"}
LEGEND_CLASSES = 20  # more of them are named by their numbers in the picture


@threadpool_limits.wrap(limits=1)
def layout(features: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    """Positions [N, 2] of features [N, D] by t-SNE (van der Maaten and Hinton 2008), started from principal components.

    Raises MetricError for a perplexity that is not below N, for values that are not finite, and for features that are
    all the same.
    """
    if perplexity >= len(features):
        raise MetricError(f"a perplexity of {perplexity:g} needs more than the {len(features)} images that there are")
    if not np.isfinite(features).all() or not np.ptp(features, axis=0).any():
        raise MetricError("features are not finite, or the same for all images, so there is nothing to lay out")
    return TSNE(2, perplexity=perplexity, init="pca", random_state=seed).fit_transform(features)


@threadpool_limits.wrap(limits=1)
def separability(features: np.ndarray, labels: np.ndarray, k: int) -> dict[str, float | None]:
    """How far features [N, D] tell the groups `labels` (int [N]) apart.

    knn_accuracy: share whose label is the most frequent one (the smallest of several) among their k nearest others
    (leave-one-out). silhouette: mean of (b - a) / max(a, b), a the mean distance to the own group's others, b to the
    nearest other group (Rousseeuw 1987), from -1 to 1; None where there is one group, or one for each image.
    """
    classifier = KNeighborsClassifier(k).fit(features, labels)
    defined = 2 <= len(np.unique(labels)) < len(labels)
    return {
        "knn_accuracy": float(classifier.score(None, labels)),
        "silhouette": float(silhouette_score(features, labels)) if defined else None,
    }


@threadpool_limits.wrap(limits=1)
def intrusion(
    data: np.ndarray, labels: np.ndarray, k: int, samples: np.ndarray | None = None, predicted: np.ndarray | None = None
) -> float:
    """Mean share of a sample's k nearest data images that are of another class than the one predicted for it, 0 to 1.

    data: features [N, D] with labels [N]; samples: [S, D] with classes predicted [S]. Without samples: the same for
    each data image, its own label and the other images, which is what to compare the samples' value with.
    """
    search = NearestNeighbors(n_neighbors=k).fit(data)
    near = search.kneighbors(samples, return_distance=False)
    own = labels if predicted is None else predicted
    return float((labels[near] != own[:, None]).mean())


@threadpool_limits.wrap(limits=1)
def mixing(features: np.ndarray, groups: np.ndarray, of: int, k: int) -> np.ndarray:
    """Mean shares of each group (int [N], from 0) among the k nearest of all others of the images of group `of`.

    features: [N, D]. Groups of one size that are fully mixed give equal shares.
    """
    near = NearestNeighbors(n_neighbors=k).fit(features).kneighbors(return_distance=False)
    found = groups[near[groups == of]]
    return np.bincount(found.ravel(), minlength=groups.max() + 1) / found.size


def scatter(axes: Axes, positions: np.ndarray, groups: np.ndarray, names: list[str]) -> None:
    """A layout [N, 2] coloured by group (int [N], indices of `names`), with a legend beside it.

    More groups than a legend could hold are named by their numbers, each at the median of its points.
    """
    from matplotlib import colormaps

    few = len(names) <= LEGEND_CLASSES
    palette = colormaps["tab10" if len(names) <= 10 else "tab20" if few else "hsv"]
    colours = np.array([to_hex(palette(i if few else i / len(names))) for i in range(len(names))])
    look = {"s": 7, "linewidths": 0, "alpha": 0.75}
    order = np.random.default_rng(0).permutation(
        len(groups)
    )  # where groups overlap, the last one would hide the others
    axes.scatter(*positions[order].T, c=colours[groups[order]], **look)
    for group in np.unique(groups):
        if few:
            axes.scatter([], [], c=colours[group], label=names[group], **look)
        else:
            at = np.median(positions[groups == group], axis=0)
            axes.text(*at, str(group), fontsize=6, ha="center", va="center")
    axes.set(xticks=[], yticks=[], aspect="equal", xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
    if few:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, markerscale=2)


def violins(axes: Axes, energies: dict[str, np.ndarray]) -> None:
    """Distributions of energies by source, with their medians."""
    drawn = axes.violinplot(list(energies.values()), showmedians=True, showextrema=False, widths=0.8)
    for i, body in enumerate(drawn["bodies"]):
        body.set(facecolor=f"C{i}", alpha=0.6)
    drawn["cmedians"].set(color="0.2")
    axes.set_xticks(range(1, len(energies) + 1), list(energies))
    axes.set(ylabel="energy E(x) (low = likely)")
