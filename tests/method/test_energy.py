"""The model: sign, shapes, heads and norms at any size."""

import contextlib

import pytest
import torch

from mebm.errors import ParamsError
from mebm.method.energy import build_model
from mebm.method.iteration import Algorithm, Drawn, objective_of
from mebm.method.schedule import make_optimiser
from mebm.method.wideresnet import NORMS
from mebm.settings.schema import Train

SHAPES = ((1, 16, 16), (3, 128, 128))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("head", ["energy", "logsumexp"])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_norm_and_head_at_small_grey_and_large_colour(norm, head, shape):
    torch.manual_seed(0)
    model = build_model(shape, 7, depth=10, width=1, head=head, norm=norm).train()
    x = torch.rand(2, *shape) * 2 - 1
    assert model.energy(x).shape == (2,)
    assert model.logits(x).shape == (2, 7)
    assert model.features(x).shape == (2, 64 if shape[1] < 64 else 128)
    assert bool(torch.isfinite(model.energy(x)).all())


def test_logsumexp_head_is_the_free_energy_of_the_logits():
    model = build_model((1, 16, 16), 5, depth=10, width=1, head="logsumexp").eval()
    x = torch.rand(3, 1, 16, 16)
    assert torch.allclose(model.energy(x), -model.logits(x).logsumexp(1), atol=1e-6)


def test_one_optimiser_step_lowers_data_against_samples():
    """The sign test, by the model's own energies: the objective's terms could have the wrong sign together."""
    torch.manual_seed(0)
    model = build_model((1, 16, 16), 1, depth=10, width=1).train()
    x_pos, x_init = torch.full((8, 1, 16, 16), -0.8), torch.rand(8, 1, 16, 16) * 2 - 1
    x_pos += 0.1 * torch.randn_like(x_pos)
    settings = Train.model_construct(
        **{"px_weight": 1.0, "pyx_weight": 0.0, "l2_coeff": 0.0, "n_steps": 0, "step_size": 1.0, "noise_std": 0.0},
        **{"grad_bound": 1.0, "precision": "float32", "optimiser": "sgd", "lr": 1e-3, "momentum": 0.0},
        weight_decay=0.0,
    )
    optimiser = make_optimiser(model, settings)
    objective, _ = objective_of(Algorithm(), settings, model, Drawn(x_pos, x_init))

    @torch.no_grad()
    def gap() -> float:
        return float(model.energy(x_pos).mean() - model.energy(x_init).mean())

    before = gap()
    objective()["loss"].backward()
    optimiser.step()
    assert gap() < before


def test_frozen_weights_are_released_again():
    model = build_model((1, 16, 16), 1, depth=10, width=1)
    with contextlib.suppress(ZeroDivisionError), model.frozen_weights():
        assert not any(p.requires_grad for p in model.parameters())
        _ = 1 / 0
    assert all(p.requires_grad for p in model.parameters())


def test_published_sizes():
    with torch.device("meta"):
        model = build_model((3, 32, 32), 10, depth=28, width=10)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(36.5e6, rel=0.002)


def test_a_depth_that_does_not_exist():
    with pytest.raises(ParamsError, match="6n"):
        build_model((1, 16, 16), 1, depth=12, width=1)


def test_batch_norm_keeps_a_tenth_of_the_old_average():
    model = build_model((1, 16, 16), 1, depth=10, width=1).train()
    norm = model.backbone.layer1[0].bn1
    norm.running_mean.fill_(1.0)
    x = torch.rand(4, 1, 16, 16)
    batch_mean = model.backbone.conv1(x).mean((0, 2, 3))
    model.energy(x)
    assert torch.allclose(norm.running_mean, 0.1 + 0.9 * batch_mean, atol=1e-5)
