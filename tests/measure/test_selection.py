"""Selection by class: what a probability that is none would do, and that it is refused."""

import math

import pytest
import torch
from small_run import linear_model

from mebm.errors import MetricError
from mebm.measure.selection import class_probabilities, select, select_by_class

PROBABILITIES = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.7, 0.3]])


def test_the_most_confident_of_each_class():
    assert select_by_class(PROBABILITIES, 0.7).tolist() == [0, 3]  # 2 of 3, and none of 1
    assert select_by_class(PROBABILITIES, 1).tolist() == [0, 1]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_probability_that_is_not_finite_selects_nothing(value):
    """Without the refusal a NaN counts as class 0, with the largest probability of all."""
    broken = PROBABILITIES.clone()
    broken[1, 0] = value
    for attempt in (lambda: select_by_class(broken, 0.9), lambda: select("release_0.9", broken, True)):
        with pytest.raises(MetricError, match="class probabilities of 1 of 4 images are not finite"):
            attempt()
    assert select("full", broken, 0.9, True)[0].tolist() == [0, 1, 2, 3]  # which selects nothing


def test_probabilities_of_a_model_that_diverged():
    model, x = linear_model((1, 4, 4), 3), torch.zeros(5, 1, 4, 4)
    assert class_probabilities(model, x, 2).sum(1) == pytest.approx(torch.ones(5))
    with torch.no_grad():
        model.class_head.bias[1] = math.nan
    with pytest.raises(MetricError, match=r"class probabilities of 5 of 5 images are not finite; the run's weights"):
        class_probabilities(model, x, 2)
