"""The objective by hand."""

import pytest
import torch

from mebm.method.loss import classification_term, generative_terms


def test_terms_by_hand():
    """Mean of squares on data, square of the mean on samples."""
    terms = generative_terms(torch.tensor([1.0, 3.0]), torch.tensor([2.0, -6.0]), 0.5)
    assert float(terms["energy_gap"]) == 2.0 - -2.0
    assert float(terms["energy_l2"]) == 5.0 + 4.0
    assert float(terms["loss_px"]) == 4.0 + 0.5 * 9.0


def test_minimising_lowers_data_and_raises_samples():
    pos, neg = torch.zeros(2, requires_grad=True), torch.zeros(2, requires_grad=True)
    generative_terms(pos, neg, 0.0)["loss_px"].backward()
    assert bool((pos.grad > 0).all())
    assert bool((neg.grad < 0).all())


def test_cross_entropy_is_a_mean():
    value = classification_term(torch.zeros(3, 10), torch.tensor([0, 1, 2]))
    assert float(value) == pytest.approx(2.302585, abs=1e-6)
