"""One iteration: its parts in their order, and other parts in their places."""

from dataclasses import replace
from itertools import count

import smoke
import torch

from mebm.method import algorithms
from mebm.method.buffer import ReplayBuffer
from mebm.method.energy import build_model
from mebm.method.gaussian import UniformInit
from mebm.method.iteration import Algorithm, Drawn, Inputs, iterate, objective_of
from mebm.method.schedule import make_optimiser
from mebm.seeds import generator_for


def settings(**changes):
    return smoke.section("train", pyx_weight=1.0, **changes)


def inputs_of(digits, n: int = 16) -> Inputs:
    """Draws of the first images, and of the ones behind them."""
    plain, labelled = count(), count(100)
    purposes = ("initial draws", "sgld noise", "chains", "augmentation", "dropout")
    init = UniformInit(digits.shape)
    return Inputs(
        digits,
        lambda: next(plain) * n + torch.arange(n),
        lambda: next(labelled) + torch.arange(n),
        ReplayBuffer(init.sample(30, generator_for("buffer", 0))),
        init,
        {purpose: generator_for(purpose, 0) for purpose in purposes},
    )


def model_of(digits):
    torch.manual_seed(0)
    return build_model(digits.shape, 10, depth=10, width=1).train()


def one_iteration(digits, algorithm: Algorithm, train):
    model, inputs = model_of(digits), inputs_of(digits)
    terms, x_neg = iterated(algorithm, train, model, inputs)
    return model, inputs, terms, x_neg


def iterated(algorithm: Algorithm, train, model, inputs: Inputs, *more):
    choices = algorithm.choose(train, inputs)
    return iterate(algorithm, train, model, make_optimiser(model, train), inputs, choices, *more)


def test_zero_weights_skip_their_forward_passes(digits):
    model, passes = model_of(digits), []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    x, labels = torch.zeros(4, *digits.shape), torch.zeros(4, dtype=torch.long)
    drawn = Drawn(x, x, labelled=(x, labels))
    terms = objective_of(Algorithm(), settings(px_weight=0.0), model, drawn)[0]()
    assert len(passes) == 1
    assert torch.equal(terms["loss"], terms["cross_entropy"])
    train = smoke.section("train", n_steps=2, noise_std=0.0)
    objective, samples = objective_of(Algorithm(), train, model, drawn)
    terms = objective()
    assert len(passes) == 1 + 4  # data, two steps, samples
    assert not torch.equal(samples().x_neg, x)
    assert "cross_entropy" not in terms
    terms["loss"].backward()
    assert model.class_head.weight.grad is None


def test_passes_run_in_the_published_order(digits):
    model, train = model_of(digits), settings(n_steps=2, noise_std=0.0, augment_pad=0, augment_flip=False)
    inputs, seen = inputs_of(digits), []
    model.backbone.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))
    drawn = []
    algorithm = Algorithm(draw=lambda *args: drawn.append(Algorithm().draw(*args)) or drawn[0])
    _, x_neg = iterated(algorithm, train, model, inputs)
    expected = {0: drawn[0].x_pos, 1: drawn[0].x_init, 3: x_neg, 4: drawn[0].labelled[0]}
    assert len(seen) == 5
    for position, x in expected.items():
        assert torch.equal(seen[position], x), position


def test_samples_go_back_to_the_chains_that_were_picked(digits):
    train = settings(reinit_freq=0.0)
    before = inputs_of(digits).buffer.images
    chosen = []
    algorithm = Algorithm(choose=lambda *args: chosen.append(Algorithm().choose(*args)) or chosen[0])
    _, inputs, _, x_neg = one_iteration(digits, algorithm, train)
    picked = chosen[0].chains.tolist()
    assert 0 < len(set(picked)) < len(picked) < len(before)  # one of them twice
    last = dict(zip(picked, x_neg, strict=True))
    for index, image in enumerate(inputs.buffer.images):
        assert torch.equal(image, last.get(index, before[index])), index


def test_another_sampler_and_other_terms_take_their_places(digits):
    published = Algorithm()

    def twice(train, model, drawn):
        first = published.sample(train, model, drawn)
        return published.sample(train, model, replace(drawn, x_init=first.x_neg))

    def only_gap(train, model, drawn, samples):
        found = published.terms(train, model, drawn, samples)
        return found | {"loss": found["energy_gap"]}

    plain = one_iteration(digits, published, settings())
    longer = one_iteration(digits, replace(published, sample=twice), settings())
    gap = one_iteration(digits, replace(published, terms=only_gap), settings())
    assert not torch.equal(plain[3], longer[3])
    assert torch.equal(plain[3], gap[3])
    assert gap[0].class_head.weight.grad is None
    assert plain[0].class_head.weight.grad is not None


def test_the_published_algorithm_is_found_by_its_name():
    assert algorithms.algorithm(smoke.section("train").algorithm) == Algorithm()


def test_gradients_are_averaged_before_they_are_used(digits):
    train = settings(weight_decay=0.0)
    model, inputs = model_of(digits), inputs_of(digits)

    def dropped(_):
        for p in model.parameters():
            p.grad = None if p.grad is None else torch.zeros_like(p.grad)

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    terms, _ = iterated(Algorithm(), train, model, inputs, dropped)
    assert float(terms["weight_grad_norm"]) == 0
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_dropout_depends_on_its_own_generator_alone(digits):
    train = settings(dropout=0.5)

    def weights(seed: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = build_model(digits.shape, 10, depth=10, width=1, dropout=0.5).train()
        inputs = inputs_of(digits)
        inputs.generators["dropout"] = generator_for("dropout", seed)
        torch.manual_seed(5)
        expected = torch.rand(3)
        torch.manual_seed(5)
        iterated(Algorithm(), train, model, inputs)
        assert torch.equal(torch.rand(3), expected)  # the global generator is left alone
        return model.energy_head.weight.detach()

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
