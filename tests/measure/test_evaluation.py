"""Scores of a model: what its own functions give, whatever the batches, and no trace left behind."""

import pytest
import torch
from small_run import ARCHITECTURE

from mebm.data.images import bytes_to_unit
from mebm.measure.evaluation import gradient_batch, gradient_norms, score, statistics
from mebm.method.energy import build_model


@pytest.fixture
def model():
    """A network in evaluation mode, whose running averages are not those that it was initialised with."""
    torch.manual_seed(0)
    model = build_model((1, 8, 8), 10, **ARCHITECTURE)
    model.train().energy(torch.rand(32, 1, 8, 8) * 2 - 1)
    return model.eval()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randint(0, 256, (13, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def state_of(model) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("batch_size", [1, 5, 13, 100])
def test_score_equals_direct_calls_for_any_batch_size(model, images, batch_size):
    x = bytes_to_unit(images)
    found = score(model, images, batch_size)
    with torch.no_grad():
        assert torch.allclose(found.energy, model.energy(x), atol=1e-5)
        assert torch.allclose(found.logits, model.logits(x), atol=1e-5)
        assert torch.allclose(found.features, model.features(x), atol=1e-5)
    assert (found.energy.shape, found.logits.shape) == ((13,), (13, 10))
    assert found.energy.dtype == torch.float32
    assert not found.energy.requires_grad


def test_bytes_and_unit_range_agree_and_images_are_left_alone(model, images):
    x = bytes_to_unit(images)
    kept = x.clone()
    by_bytes, by_unit = score(model, images, 4), score(model, x, 4)
    assert torch.equal(by_bytes.energy, by_unit.energy)
    assert torch.equal(by_bytes.logits, by_unit.logits)
    assert torch.equal(gradient_norms(model, images, 4), gradient_norms(model, x, 4))
    assert torch.equal(x, kept)
    assert not x.requires_grad


def test_no_images_give_no_scores(model, images):
    found = score(model, images[:0], 4)
    assert (found.energy.shape, found.logits.shape) == ((0,), (0, 10))


@pytest.mark.parametrize("batch_size", [1, 5, 100])
def test_gradient_norms_by_hand(model, images, batch_size):
    found = gradient_norms(model, images, batch_size)
    for image, norm in zip(bytes_to_unit(images), found, strict=True):
        x = image[None].clone().requires_grad_(True)
        model.energy(x)[0].backward()
        assert float(norm) == pytest.approx(float(x.grad.norm()), rel=1e-4)


def test_gradient_norms_are_slopes(model, images):
    """A step of length h along the gradient raises the energy by h times its norm."""
    model, x = model.double(), bytes_to_unit(images, torch.float64)
    norms, moved = gradient_norms(model, x, 13), x.clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(model.energy(moved).sum(), moved)
    step = 1e-6 * gradient / norms.view(-1, 1, 1, 1)
    with torch.no_grad():
        slope = (model.energy(x + step) - model.energy(x - step)) / 2e-6
    assert torch.allclose(slope, norms, rtol=1e-4)


def test_model_is_left_as_it_was(model, images):
    before = state_of(model)
    score(model, images, 4)
    gradient_norms(model, images, 4)
    assert same(before, model.state_dict())
    assert not model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_batch_statistics_equal_training_mode_and_leave_no_trace(model, images):
    before = state_of(model)
    inside = score(model, images, 13, "batch").energy
    gradient_norms(model, images, 13, "batch")
    assert same(before, model.state_dict())  # running averages and num_batches_tracked among them
    after = score(model, images, 13).energy
    with torch.no_grad():
        expected = model.train().energy(bytes_to_unit(images))
    assert torch.equal(inside, expected)
    assert not torch.allclose(inside, after, atol=1e-3)
    assert not same(before, model.state_dict())  # as training itself does


def test_batch_statistics_survive_a_batch_that_is_not_finite(model):
    before = state_of(model)
    assert bool(score(model, torch.full((4, 1, 8, 8), torch.inf), 4, "batch").energy.isnan().all())
    assert same(before, model.state_dict())


def test_batch_statistics_end_with_an_error_inside(model, images):
    expected = score(model, images, 13).energy
    with pytest.raises(KeyError), statistics(model, "batch"):
        raise KeyError
    assert torch.equal(score(model, images, 13).energy, expected)


def test_dropout_stays_off_within_batch_statistics(images):
    model = build_model((1, 8, 8), 10, **{**ARCHITECTURE, "dropout": 0.5}).eval()
    assert torch.equal(score(model, images, 13, "batch").energy, score(model, images, 13, "batch").energy)


@pytest.mark.parametrize("bn_stats", ["running", "batch"])
def test_the_mode_of_the_model_changes_nothing_and_is_left_as_it_was(model, images, bn_stats):
    expected = score(model, images, 13, bn_stats).energy
    before = state_of(model.train())
    model.backbone.layer1.eval()
    modes = [module.training for module in model.modules()]
    assert torch.equal(score(model, images, 13, bn_stats).energy, expected)
    assert torch.equal(gradient_norms(model, images, 13, bn_stats), gradient_norms(model.eval(), images, 13, bn_stats))
    model.train().backbone.layer1.eval()
    with statistics(model, bn_stats):
        assert not model.training
    assert [module.training for module in model.modules()] == modes
    assert same(before, model.state_dict())


def test_running_statistics_are_the_default_and_another_word_is_refused(model, images):
    assert torch.equal(score(model, images, 5).energy, score(model, images, 5, "running").energy)
    with pytest.raises(ValueError, match="bn_stats is 'eval', expected one of"):
        score(model, images, 5, "eval")


def test_gradients_take_smaller_batches_but_never_none():
    assert [gradient_batch(n) for n in (1, 3, 4, 500)] == [1, 1, 1, 125]
