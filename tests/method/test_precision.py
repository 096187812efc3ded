"""bf16 against float32: energies, gradients and ten iterations within stated limits (docs/performance.md)."""

import pytest
import smoke
import torch
from torch.nn.functional import cosine_similarity

from mebm.method.energy import EnergyModel, build_model
from mebm.method.gaussian import UniformInit
from mebm.method.iteration import autocast
from mebm.training.loop import step
from mebm.training.release import from_release_state
from mebm.training.run import Run


@pytest.fixture
def model() -> EnergyModel:
    """A trained network in training mode."""
    state = torch.load(smoke.ROOT / "tests" / "oracle" / "wrn10_1_uncond.pt", weights_only=True)["model_state_dict"]
    model = build_model((3, 32, 32), 10, depth=10, width=1)
    model.load_state_dict(from_release_state(state))
    return model.train()


def in_precision(model: EnergyModel, precision: str) -> tuple[torch.Tensor, ...]:
    """Energies of fixed images, and the gradients to images and to weights."""
    train = smoke.section("train", precision=precision)
    x = (torch.rand(32, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1).requires_grad_()
    with autocast(train, model):
        energies = model.energy(x)
    images, *weights = torch.autograd.grad(energies.mean(), [x, *model.backbone.parameters()])
    return energies.detach(), images.flatten(), torch.cat([gradient.flatten() for gradient in weights])


def test_energies_and_gradients_stay_close(model):
    exact, rounded = (in_precision(model, precision) for precision in ("float32", "bf16"))
    assert rounded[0].dtype == torch.float32
    assert not torch.equal(exact[0], rounded[0])
    assert float((exact[0] - rounded[0]).abs().max()) < 0.1 * float(exact[0].std())
    assert float(cosine_similarity(exact[1], rounded[1], dim=0)) > 0.95
    assert float(cosine_similarity(exact[2], rounded[2], dim=0)) > 0.99


def test_ten_iterations_stay_close(digits):
    def rows(precision: str) -> list[dict]:
        train = smoke.section("train", precision=precision, pyx_weight=1.0, epochs=10, log_every=1, warmup_iters=5)
        run = Run(train, digits, UniformInit(digits.shape), torch.device("cpu"))
        for _ in range(10):
            step(run)
        return run.rows

    exact, rounded = rows("float32"), rows("bf16")
    for one, two in zip(exact, rounded, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=0.1), one["iteration"]
        assert two["energy_pos"] == pytest.approx(one["energy_pos"], rel=0.1, abs=0.1)
        assert two["cross_entropy"] == pytest.approx(one["cross_entropy"], rel=0.1)
