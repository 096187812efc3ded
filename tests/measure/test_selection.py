"""Selection by class: what a probability that is none would do, and that it is refused."""

import math

import pytest
import torch
from small_run import linear_model

from mebm.errors import MetricError
from mebm.measure.selection import RELEASE_IMAGES, class_probabilities, select, select_by_class

FEW = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])


# predicted as 1, 0, 1, 1, 0, 1 with these confidences
CONFIDENCE = torch.tensor([0.6, 0.9, 0.8, 0.7, 0.95, 0.8])
PROBABILITIES = torch.where(torch.tensor([[0, 1], [1, 0], [0, 1], [0, 1], [1, 0], [0, 1]]) == 1, CONFIDENCE[:, None], 0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_probability_that_is_not_finite_selects_nothing(value):
    """Without the refusal a NaN counts as class 0, with the largest probability of all."""
    broken = FEW.clone()
    broken[1, 0] = value
    for attempt in (lambda: select_by_class(broken, 0.9), lambda: select("release_0.9", broken, True)):
        with pytest.raises(MetricError, match="class probabilities of 1 of 4 images are not finite"):
            attempt()
    assert select("full", broken, True)[0].tolist() == [0, 1, 2, 3]  # which selects nothing


def test_probabilities_of_a_model_that_diverged():
    model, x = linear_model((1, 4, 4), 3), torch.zeros(5, 1, 4, 4)
    assert class_probabilities(model, x, 2).sum(1) == pytest.approx(torch.ones(5))
    with torch.no_grad():
        model.class_head.bias[1] = math.nan
    with pytest.raises(MetricError, match=r"class probabilities of 5 of 5 images are not finite; the run's weights"):
        class_probabilities(model, x, 2)


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
    kept, record = select("full", PROBABILITIES, True)
    assert kept.tolist() == [0, 1, 2, 3, 4, 5]
    assert (record["rounding"], record["selection"], record["keep_ratio"]) == ("nearest", None, None)


@pytest.mark.parametrize(("trained", "by"), [(True, "class head"), (False, "untrained class head")])
def test_release_selects_and_truncates(trained, by):
    kept, record = select("release_0.5", PROBABILITIES, trained)
    assert kept.tolist() == [4, 2, 5]
    assert (record["rounding"], record["keep_ratio"]) == ("truncate", 0.5)
    assert record["selection"] == f"by confidence of the {by}"


def test_release_looks_at_as_many_images_as_the_release_has():
    many = torch.zeros(RELEASE_IMAGES + 5, 2)
    many[:, 0], many[-1, 0] = 0.6, 0.9
    kept, record = select("release_1", many, True)
    assert kept.tolist() == [0]
    assert record["n_considered"] == RELEASE_IMAGES
