"""The sharpness-aware step: where its second gradient is taken, of what, and what it leaves alone."""

import pytest
import smoke
import torch
from test_iteration import inputs_of, iterated, model_of

from mebm.method.algorithms import algorithm
from mebm.method.algorithms.sharpness_aware import climb
from mebm.method.iteration import Algorithm, objective_of
from mebm.method.schedule import make_optimiser

SAM = algorithm("sharpness_aware")
OPTIONS = {"pyx_weight": 1.0, "n_steps": 3, "weight_decay": 0.0, "momentum": 0.0, "lr": 0.1}


def settings(**changes):
    return smoke.section("train", **{**OPTIONS, **changes})


def test_no_second_sampling_and_uphill_on_the_same_batch(digits):
    passes, losses = [], []
    model, train, inputs = model_of(digits), settings(), inputs_of(digits)
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    terms, x_neg = iterated(SAM, train, model, inputs, lambda loss: losses.append(loss.detach()))
    assert len(passes) == 3 + 3 + 3  # data, samples and labelled, the steps once, and all three again
    assert losses[1] > losses[0]
    assert torch.equal(losses[0], terms["loss"])
    plain = model_of(digits)
    _, same = iterated(Algorithm(), train, plain, inputs_of(digits))
    assert torch.equal(same, x_neg)


def test_running_averages_are_those_of_the_first_passes(digits):
    plain, aware = model_of(digits), model_of(digits)
    iterated(Algorithm(), settings(), plain, inputs_of(digits))
    iterated(SAM, settings(), aware, inputs_of(digits))
    for (name, one), two in zip(plain.named_buffers(), aware.buffers(), strict=True):
        assert torch.equal(one, two), name
    assert not torch.equal(plain.energy_head.weight, aware.energy_head.weight)
    layers = [layer for layer in aware.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert all(layer.track_running_stats for layer in layers)


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_step_is_the_gradient_at_the_climbed_weights(digits, adaptive):
    """Written out by hand: w - lr g(w + e), with e of the stated length and direction."""
    train, inputs = settings(sam_rho=0.1, sam_adaptive=adaptive), inputs_of(digits)
    choices = SAM.choose(train, inputs)
    drawn = SAM.draw(train, inputs, choices)

    def gradients(model, objective) -> list[torch.Tensor]:
        return torch.autograd.grad(objective()["loss"], list(model.parameters()))

    model = model_of(digits)
    start = [p.detach().clone() for p in model.parameters()]
    objective, _ = objective_of(SAM, train, model, drawn)
    g = gradients(model, objective)
    scales = [w.abs() if adaptive else torch.ones_like(w) for w in start]
    length = torch.cat([(s * d).flatten() for s, d in zip(scales, g, strict=True)]).norm()
    with torch.no_grad():
        for p, s, d in zip(model.parameters(), scales, g, strict=True):
            p += 0.1 * s**2 * d / length
    second = gradients(model, objective)

    aware = model_of(digits)
    objective, _ = objective_of(SAM, train, aware, drawn)
    SAM.update(train, aware, objective, make_optimiser(aware, train), lambda loss: None)
    for p, w, d in zip(aware.parameters(), start, second, strict=True):
        torch.testing.assert_close(p.detach(), w - 0.1 * d, rtol=1e-4, atol=1e-6)


def test_the_way_uphill_has_the_length_rho():
    weights = [torch.nn.Parameter(torch.tensor([3.0, 4.0])), torch.nn.Parameter(torch.tensor([0.0]))]
    for p in weights:
        p.grad = torch.ones_like(p)
    climb(weights, 0.3, adaptive=False)
    moved = torch.cat([weights[0].detach() - torch.tensor([3.0, 4.0]), weights[1].detach()])
    assert float(moved.norm()) == pytest.approx(0.3, rel=1e-5)


def test_a_weight_of_zero_does_not_climb_by_its_own_size():
    weight = torch.nn.Parameter(torch.tensor([2.0, 0.0]))
    weight.grad = torch.ones(2)
    climb([weight], 0.3, adaptive=True)
    assert weight.tolist() == pytest.approx([2.0 + 0.3 * 4 / 2, 0.0])
