"""Training images that a run holds out of training, to choose weights by without looking at the test split."""

import torch

from mebm.data.images import ImageSet
from mebm.data.split import digests_of, split_stratified
from mebm.errors import DataError


def validation_split(data: ImageSet, n: int) -> tuple[ImageSet, ImageSet | None]:
    """What is left to train on, and n images of `data` that are held out, both in the order of `data`.

    Stratified by class, equal images on one side, and the same for every seed of training. None where n is 0. Raises
    DataError where equal images or classes do not allow it.
    """
    if n == 0:
        return data, None
    labels = None if data.labels is None else data.labels.numpy()
    try:
        parts = split_stratified(labels, digests_of(data.images.numpy()), n, seed=0)
    except DataError as error:
        raise DataError(f"train.validation_images: {error}; change it") from error
    if len(parts[1]) != n:
        raise DataError(
            f"train.validation_images: {n} of these {len(data)} images cannot be held out, because equal ones stay on "
            f"one side of the split; set it to {len(parts[1])}"
        )
    kept, held_out = (torch.from_numpy(part).sort().values for part in parts)

    def part(index: torch.Tensor) -> ImageSet:
        of = None if data.labels is None else data.labels[index]
        return ImageSet(data.images[index], of, None if of is None else data.n_classes)

    return part(kept), part(held_out)
