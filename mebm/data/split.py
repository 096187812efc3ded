"""Splits of a set of images into a kept and a held-out part, equal images always on one side."""

from hashlib import sha256

import numpy as np

from mebm.errors import DataError


def digests_of(images: np.ndarray) -> np.ndarray:
    """A number for each image, uint8 [n, C, H, W] to uint64 [n]: the same for equal ones, another for others.

    It has 64 bits: among a million images, the chance that any two that differ share it is 3e-8.
    """
    rows = np.ascontiguousarray(images).reshape(len(images), -1)
    return np.frombuffer(b"".join(sha256(row).digest()[:8] for row in rows), np.uint64)


def split_stratified(
    labels: np.ndarray | None, digests: np.ndarray, n_held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the kept and the held-out part of n images, each in random order, classes in their proportions.

    digests: uint64 [n], as `digests_of` gives them. Images with the same one stay on one side; a group whose labels
    differ counts to one of these classes. Where groups do not add up to n_held_out, as many are held out as come
    closest, none if all images are equal. Without labels the split is random. Raises DataError where fewer than one
    image of a class would be held out or kept.
    """
    n = len(digests)
    if n_held_out == 0:
        return np.arange(n), np.arange(0)
    from sklearn.model_selection import train_test_split

    try:
        kept, held_out = train_test_split(np.arange(n), test_size=n_held_out, random_state=seed, stratify=labels)
    except ValueError as error:
        raise DataError(f"{n} images cannot be split with {n_held_out} held out in every class ({error})") from error
    if len(np.unique(digests)) == n:
        return kept, held_out
    return _with_equals(kept, held_out, labels, digests)


def _with_equals(
    kept: np.ndarray, held_out: np.ndarray, labels: np.ndarray | None, digests: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The split that was drawn, changed so that equal images are on one side and each class keeps its number.

    What one class cannot make up is left to the next; those with the most images that have no equal come last.
    """
    drawn = np.concatenate([held_out, kept])  # in the order in which they are held out
    _, first, group = np.unique(digests[drawn], return_index=True, return_inverse=True)
    sizes, out = np.bincount(group), np.bincount(group[: len(held_out)], minlength=len(first))
    classes = np.zeros(len(first), int) if labels is None else labels[drawn[first]]
    alone = np.bincount(classes, sizes == 1)[classes]
    order = np.lexsort((first, classes, alone))
    chosen, missing = np.zeros(len(first), bool), 0
    for groups in np.split(order, np.flatnonzero(np.diff(classes[order])) + 1):
        taken = _closest(sizes[groups], out[groups], int(out[groups].sum()) + missing)
        chosen[groups[taken]] = True
        missing += int(out[groups].sum() - sizes[groups[taken]].sum())
    return drawn[~chosen[group]], drawn[chosen[group]]


def _closest(sizes: np.ndarray, out: np.ndarray, wanted: int) -> np.ndarray:
    """Indices of groups that together have `wanted` images, or as nearly as can be with at least one group left.

    sizes: images of each group; out: how many of them were drawn. Of groups of one size the first ones are taken, and
    of each size as many as were drawn, if it can be.
    """
    total, kinds = int(sizes.sum()), [np.flatnonzero(sizes == size) for size in np.unique(sizes)]
    sums = [1]  # which numbers of images the kinds so far can make up, as bits
    for kind in kinds:
        size, left, step, made = int(sizes[kind[0]]), len(kind), 1, sums[-1]
        while left:
            made |= made << size * min(step, left)
            left, step = left - min(step, left), 2 * step
        sums.append(made)
    wanted = min(max(wanted, 0), total)
    near = (n for away in range(total + 1) for n in (wanted - away, wanted + away) if 0 <= n < total)
    goal = next(n for n in near if sums[-1] >> n & 1)
    taken = []
    for kind, before in zip(reversed(kinds), reversed(sums[:-1]), strict=True):
        size = int(sizes[kind[0]])
        counts = np.arange(min(len(kind), goal // size) + 1)
        counts = counts[np.argsort(np.abs(counts - out[kind].sum() / size), kind="stable")]
        count = next(count for count in counts.tolist() if before >> goal - count * size & 1)
        taken.append(kind[:count])
        goal -= count * size
    return np.concatenate(taken)
