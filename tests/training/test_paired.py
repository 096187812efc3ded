"""x+ and x- in one pass give the numbers of passes of their own, up to rounding."""

from dataclasses import replace

import pytest
import smoke
import torch
import torch.nn.functional as F
from test_execution import assert_same, gpu_run, record, run_of, steps
from test_replay import SETTINGS, images_of, started
from torch import nn

from mebm.method.energy import build_model
from mebm.method.iteration import Algorithm, terms
from mebm.training import paired
from mebm.training.loop import step
from mebm.training.paired import Convolution, Flipped, pair
from mebm.training.run import Run

WIDTHS = (16, 32, 64)  # channels of a network of width 1
VARIANTS = {  # settings and iterations
    "M-EBM": ({}, 10),
    "M-JEM": ({"pyx_weight": 1.3}, 10),
    "log-sum-exp": ({"pyx_weight": 1.0, "head": "logsumexp"}, 3),
    "sharpness-aware": ({"pyx_weight": 1.0, "algorithm": "sharpness_aware"}, 3),
    "Adam": ({"optimiser": "adam"}, 3),
    "no steps": ({"n_steps": 0}, 3),
    "layer norm": ({"norm": "layer"}, 3),
}


def wide(**changes) -> Run:
    """A run in float64 before its first iteration, under which each part of an iteration does something."""
    return started(smoke.section("train", **SETTINGS | changes), images_of("M-EBM")[0])


def assert_close(plain: Run, pairs: Run) -> None:
    """To nine digits of each tensor's largest element: weights, what the optimiser keeps, running averages, chains."""
    ours, theirs = pairs._changes(), plain._changes()
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        limit = 1e-9 * max(float(value.double().abs().max()), 1e-3)
        torch.testing.assert_close(ours[name], value, rtol=0, atol=limit, msg=lambda said, n=name: f"{n}: {said}")


@pytest.mark.parametrize("variant", VARIANTS)
def test_iterations_are_those_of_separate_passes(variant, monkeypatch):
    changes, n = VARIANTS[variant]
    if variant == "M-EBM":
        monkeypatch.setitem(paired.FLIPPED, "cpu", WIDTHS)
    plain, pairs = wide(**changes), wide(**changes, execution="paired")
    for _ in range(n):
        step(plain)
        step(pairs)
        assert_close(plain, pairs)
    for theirs, ours in zip(plain.rows, pairs.rows, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-6)  # kept in float32
    flipped = sum(getattr(layer, "flipped", False) for layer in pairs.model.modules())
    assert flipped == (2 if variant == "M-EBM" else 0)  # in the later stages channels or sides change


def test_one_pass_takes_the_place_of_two():
    sizes = {execution: [] for execution in ("eager", "paired")}
    for execution, seen in sizes.items():
        run = wide(pyx_weight=1.0, execution=execution)
        run.model.backbone.register_forward_hook(lambda _, args, __, seen=seen: seen.append(len(args[0])))
        step(run)
    assert sizes == {"eager": [7, 7, 7, 7, 7, 10], "paired": [7, 7, 7, 14, 10]}


def test_terms_of_its_own_keep_their_passes(digits):
    def own(train, model, drawn, samples):
        return terms(train, model, drawn, samples)

    model = build_model(digits.shape, 10, depth=10, width=1)
    assert pair(Algorithm(terms=own), model).terms is own
    published = pair(Algorithm(), model)
    assert published.terms is not terms
    assert replace(published, terms=terms) == Algorithm()


def test_no_bias_of_a_convolution_changes_what_training_sees():
    """Gradients of separate passes are rounding; of a pair they are 0, and there, so that weight decay goes on."""
    x = torch.rand(6, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for prepare in (lambda model: None, lambda model: pair(Algorithm(), model)):
        torch.manual_seed(0)
        model = build_model((3, 8, 8), 10, depth=16, width=2).double().train()
        prepare(model)
        (model.energy(x).square().sum() + model.logits(x).square().sum()).backward()
        found.append(model)
    plain, pairs = found
    convolutions = [name for name, layer in plain.named_modules() if isinstance(layer, nn.Conv2d)]
    assert len(convolutions) == 1 + 12 + 3
    for name in convolutions:
        layer = plain.get_submodule(name)
        assert layer.bias.grad.abs().max() < 1e-12 * layer.weight.grad.abs().max(), name
        assert torch.equal(pairs.get_submodule(name).bias.grad, torch.zeros_like(layer.bias)), name
    for (name, one), two in zip(plain.named_parameters(), pairs.parameters(), strict=True):
        torch.testing.assert_close(two.grad, one.grad, rtol=1e-9, atol=1e-12, msg=name)


def test_a_bias_has_its_gradient_where_running_averages_normalise():
    x, layer = torch.rand(2, 3, 5, 5), Convolution(3, 4, 3, padding=1)
    layer.eval()(x).sum().backward()
    assert torch.equal(layer.bias.grad, torch.full((4,), 50.0))


def test_the_gradient_to_images_by_flipped_filters():
    random = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*shape, generator=random).double() for shape in ((2, 3, 4, 5), (3, 3, 3, 3), (3,)))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Flipped.apply(x, weight, bias), x)
    assert torch.equal(Flipped.apply(x, weight, bias), F.conv2d(x, weight, bias, padding=1))


def test_flipped_filters_under_autocast(monkeypatch):
    """The gradient in bf16, of images in float32 also: both ways round alike."""
    monkeypatch.setitem(paired.FLIPPED, "cpu", WIDTHS)
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = []
    for prepare in (lambda model: None, lambda model: pair(Algorithm(), model)):
        torch.manual_seed(0)
        model = build_model((3, 8, 8), 1, depth=10, width=1).train()
        prepare(model)
        with model.frozen_weights():
            with torch.autocast("cpu", torch.bfloat16):
                energy = model.energy(x).sum()
            gradients += torch.autograd.grad(energy, x)
    plain, flipped = (gradient.flatten() for gradient in gradients)
    assert float(F.cosine_similarity(plain, flipped, dim=0)) > 0.999
    assert flipped.dtype == torch.float32


@pytest.mark.parametrize("changes", [{"pyx_weight": 1.0}, {"precision": "bf16"}])
def test_a_recorded_pair_is_the_pair(digits, init, changes):
    options = {"execution": "paired", **changes}
    launched, replayed = (run_of(digits, init, recorded=recorded, **options) for recorded in (False, True))
    for _ in range(4):  # each looked at, for later ones leave little of its running averages
        assert_same(steps(launched, 1), steps(replayed, 1))


def test_a_recorded_pair_goes_on_from_a_state_in_the_same_bytes(digits, init):
    options = {"execution": "paired", "pyx_weight": 1.0}
    whole = steps(run_of(digits, init, recorded=True, **options), 5)
    first, second = steps(run_of(digits, init, recorded=True, **options), 2), run_of(digits, init, **options)
    second.load(first.state())
    assert_same(whole, steps(record(second), 3))


@pytest.mark.gpu
@pytest.mark.parametrize("way", ["paired", "graph+paired", "graph+compile+paired"])
def test_pairs_on_a_gpu_agree_with_single_launches(digits, init, way, monkeypatch):
    monkeypatch.setitem(paired.FLIPPED, "cuda", WIDTHS)
    plain, pairs = (
        steps(gpu_run(digits, init, execution=execution, pyx_weight=1.0), 3) for execution in ("eager", way)
    )
    for one, two in zip(plain.rows, pairs.rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-4)
    for name, value in plain.model.named_buffers():
        torch.testing.assert_close(pairs.model.state_dict()[name], value, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"pyx_weight": 1.0}, {"precision": "bf16"}])
def test_a_cuda_graph_of_pairs_gives_the_numbers_of_single_launches(digits, init, changes, exact):
    launched, graph = (steps(gpu_run(digits, init, execution=way, **changes), 6) for way in ("paired", "graph+paired"))
    assert_same(launched, graph)


@pytest.mark.gpu
def test_a_cuda_graph_of_pairs_goes_on_from_a_state_in_the_same_bytes(digits, init, exact):
    options = {"execution": "graph+paired", "pyx_weight": 1.0, "precision": "bf16"}
    whole, first = steps(gpu_run(digits, init, **options), 7), steps(gpu_run(digits, init, **options), 3)
    second = gpu_run(digits, init, **options)
    second.load(first.state())
    assert_same(whole, steps(second, 4))
