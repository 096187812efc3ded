"""Which images of the replay buffer a protocol scores, and what its record says."""

import pytest
import torch

from mebm.measure.selection import RELEASE_IMAGES, select, select_by_class

# predicted as 1, 0, 1, 1, 0, 1 with these confidences
CONFIDENCE = torch.tensor([0.6, 0.9, 0.8, 0.7, 0.95, 0.8])
PROBABILITIES = torch.where(torch.tensor([[0, 1], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]) == 1, CONFIDENCE[:, None], 0)


@pytest.mark.parametrize(
    ("keep_ratio", "kept"),
    [
        (0.9, [4, 2, 5, 3]),  # of 2 and of 4 images nine tenths, rounded down
        (0.5, [4, 2, 5]),
        (0.3, [2]),
        (1.0, [4, 2]),  # from 1 on a number
        (3.9, [4, 1, 2, 5, 3]),
        (10_000, [4, 1, 2, 5, 3, 0]),
    ],
)
def test_class_by_class_the_most_probable_first(keep_ratio, kept):
    assert select_by_class(PROBABILITIES, keep_ratio).tolist() == kept


def test_full_is_the_whole_buffer_in_its_order_rounded():
    kept, record = select("full", PROBABILITIES, 0.5, True)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5]
    assert record == {"rounding": "nearest", "selection": None, "keep_ratio": None}


@pytest.mark.parametrize(("trained", "by"), [(True, "class head"), (False, "untrained class head")])
def test_release_selects_and_truncates(trained, by):
    kept, record = select("release", PROBABILITIES, 0.5, trained)
    assert kept.tolist() == [4, 2, 5]
    assert record == {"rounding": "truncate", "selection": f"by confidence of the {by}", "keep_ratio": 0.5}


def test_release_looks_at_as_many_images_as_the_release_has():
    many = torch.zeros(RELEASE_IMAGES + 5, 2)
    many[:, 0], many[-1, 0] = 0.6, 0.9
    kept, _ = select("release", many, 1.0, True)
    assert kept.tolist() == [0]
    alone, record = select("release", many[:, :1], 0.5, False)  # without classes
    assert alone.tolist() == list(range(RELEASE_IMAGES))
    assert record == {"rounding": "truncate", "selection": None, "keep_ratio": None}
