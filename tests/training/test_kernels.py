"""Our own CPU kernels against PyTorch in float64, and against values of the published release."""

import copy
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import smoke
import torch
import torch.nn.functional as F
from torch import nn

from mebm.errors import ParamsError
from mebm.method.energy import EnergyModel, build_model
from mebm.method.gaussian import UniformInit
from mebm.method.sgld import sgld
from mebm.training.loop import step
from mebm.training.native import kernels
from mebm.training.release import from_release_state
from mebm.training.run import Run

needs_compiler = pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
SHAPES = [(2, 16, 32, 32, 32), (3, 32, 16, 7, 9), (1, 48, 48, 4, 4), (2, 128, 64, 1, 3), (5, 64, 128, 8, 8)]


def images(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return x.to(dtype).to(memory_format=torch.channels_last)


def error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return float((ours.double() - reference).abs().max() / reference.abs().max())


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@needs_compiler
@pytest.mark.parametrize(("dtype", "limit", "of_weights"), [(torch.float32, 3e-5, 1e-4), (torch.bfloat16, 8e-3, 4e-2)])
@pytest.mark.parametrize(("n", "c", "k", "h", "w"), SHAPES)
def test_convolution_and_its_gradients(n, c, k, h, w, dtype, limit, of_weights, threads):
    conv = nn.Conv2d(c, k, 3, padding=1)
    reference, ours = copy.deepcopy(conv).double(), nn.Sequential(conv)
    kernels.use_native(ours)
    assert isinstance(ours[0], kernels.Convolution)
    x = images(n, c, h, w, dtype=dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    dy = images(n, k, h, w, dtype=dtype, seed=1)
    y, expected = ours(x), reference(exact)
    y.backward(dy)
    expected.backward(dy.double())
    assert y.dtype == x.grad.dtype == dtype
    assert error(y.detach(), expected.detach()) < limit
    assert error(x.grad, exact.grad) < limit
    assert error(conv.weight.grad, reference.weight.grad) < of_weights  # of noise: sums of no sign are the hardest
    assert error(conv.bias.grad, reference.bias.grad) < 1e-5


def mean_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    """Root mean square of differences as a share of that of values."""
    return float((ours.double() - reference).norm() / reference.norm())


@needs_compiler
@pytest.mark.parametrize(("c", "k", "side"), [(32, 32, 32), (64, 128, 16), (128, 128, 8), (320, 64, 8)])
def test_bf16_is_about_as_exact_as_a_bf16_convolution_of_pytorch(c, k, side):
    """Activations as BatchNorm leaves them, gradients that depend on them, some images' a thousand times smaller."""
    torch.manual_seed(0)
    x = F.leaky_relu(images(16, c, side, side), 0.2).bfloat16()
    dy = (F.conv2d(x.float(), torch.randn(k, c, 3, 3) / c, padding=1) + images(16, k, side, side, seed=1)).bfloat16()
    dy[::2] *= 1e-3
    conv = nn.Conv2d(c, k, 3, padding=1)
    nn.init.kaiming_normal_(conv.weight)
    ours = nn.Sequential(copy.deepcopy(conv))
    kernels.use_native(ours)

    def numbers(model: nn.Module, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
        start = x.detach().to(dtype).requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            y = model(start)
        y.backward(dy.to(dtype))
        (weight, *_) = model.parameters()
        return y.detach()[::2], start.grad[::2], start.grad[1::2], weight.grad

    exact = numbers(copy.deepcopy(conv).double(), torch.float64)
    eager, native = numbers(copy.deepcopy(conv), torch.bfloat16), numbers(ours, torch.bfloat16)
    # weight gradients have 64 to 1024 tiles to sum here, of little but noise; training's are a tenth of this
    for values, theirs, reference, factor in zip(native, eager, exact, (2, 2, 2, 8), strict=True):
        assert mean_error(values, reference) < factor * mean_error(theirs, reference)


@needs_compiler
@pytest.mark.parametrize("c", [16, 128, 272])
def test_bf16_sums_never_overflow(c):
    """Images and filters at the bounds from which integers get their scales."""
    row = torch.tensor([-1.0, -1, -1, 1, 1, 1])  # signs of a row of the transform
    signs = torch.outer(row, row)
    for pattern in (torch.ones(6, 6), signs, -signs):
        x = pattern.repeat(1, c, 2, 2).bfloat16().to(memory_format=torch.channels_last)
        for weight in (torch.ones(16, c, 3, 3), torch.tensor([1.0, -1, 1])[:, None].expand(16, c, 3, 3)):
            filters = kernels.transformed(weight, torch.bfloat16)
            y = kernels.winograd(x, filters, None)
            assert error(y, F.conv2d(x.double(), weight.double(), padding=1)) < 0.1  # equal channels err alike
    assert not kernels.winograd(torch.zeros_like(x), filters, None).any()


@needs_compiler
@pytest.mark.parametrize("offset", [0.0, 300.0])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 2e-4), (torch.bfloat16, 2e-2)])
def test_norm_and_activation(dtype, limit, offset, threads):
    torch.manual_seed(0)  # a weight near zero makes kinks of all that passes it
    norm = nn.BatchNorm2d(48, momentum=0.9)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    reference, ours = copy.deepcopy(norm).double(), nn.Sequential(norm)
    kernels.use_native(ours)
    x = (images(6, 48, 9, 11) + offset).to(dtype).requires_grad_()
    exact = x.detach().double().requires_grad_()
    dy = images(6, 48, 9, 11, dtype=dtype, seed=1)
    y, expected = norm.activated(x, 0.2), F.leaky_relu(reference(exact), 0.2)
    y.backward(dy)
    expected.backward(dy.double())
    assert y.dtype == x.grad.dtype == dtype
    assert error(y.detach(), expected.detach()) < limit
    # kinks: an element whose rounding crosses zero has the other slope, so compare in the mean
    assert float((x.grad.double() - exact.grad).norm() / exact.grad.norm()) < 10 * limit
    assert error(norm.weight.grad, reference.weight.grad) < 10 * limit
    assert error(norm.bias.grad, reference.bias.grad) < 10 * limit
    for name in ("running_mean", "running_var"):
        assert error(getattr(norm, name), getattr(reference, name)) < 1e-5, name
    assert norm.num_batches_tracked == 1
    norm.eval()
    assert torch.equal(norm.activated(x, 0.2), F.leaky_relu(norm(x), 0.2))


@needs_compiler
def test_what_is_not_finite_stays_visible():
    for value in (float("nan"), float("inf")):
        x = images(2, 16, 8, 8)
        x[1, 3, 4, 4] = value
        model = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16))
        kernels.use_native(model)
        y = model[0](x)
        assert not torch.isfinite(y).all()
        assert not torch.isfinite(model[0](x.bfloat16())).all()
        assert not torch.isfinite(model[1].activated(y, 0.2)).all()
        assert not torch.isfinite(model[1].activated(x.bfloat16(), 0.2)).all()


@needs_compiler
def test_transforms_follow_the_weights():
    conv = nn.Conv2d(16, 16, 3, padding=1)
    model = nn.Sequential(conv)
    kernels.use_native(model)
    x = images(2, 16, 8, 8)
    before = model(x)
    assert torch.equal(model(x), before)  # equal bytes twice
    torch.optim.SGD(model.parameters(), 0.5).zero_grad()
    model(x).square().sum().backward()
    torch.optim.SGD(model.parameters(), 1e-3).step()
    expected = F.conv2d(x.double(), conv.weight.double(), conv.bias.double(), padding=1)
    assert error(model(x).detach(), expected.detach()) < 3e-5
    conv.load_state_dict({"weight": torch.zeros(16, 16, 3, 3), "bias": torch.ones(16)})
    assert torch.equal(model(x), torch.ones(2, 16, 8, 8))


@needs_compiler
def test_a_model_keeps_its_names_and_what_does_not_fit():
    model = build_model((3, 32, 32), 10, depth=10, width=1)
    expected = copy.deepcopy(model).state_dict()
    kernels.use_native(model)
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())
    kinds = {name: type(module) for name, module in model.named_modules()}
    assert kinds["backbone.conv1"] is nn.Conv2d  # 3 channels
    assert kinds["backbone.layer2.0.conv2"] is nn.Conv2d  # stride 2
    assert kinds["backbone.layer2.0.conv1"] is kernels.Convolution
    assert kinds["backbone.layer2.0.bn1"] is kernels.BatchNorm


@needs_compiler
def test_the_release_in_float32(oracle_dir: Path):
    """The mean differences that the values' README allows a float32 implementation."""
    checkpoint, values = oracle_dir / "wrn10_1_uncond.pt", torch.load(oracle_dir / "sgld.pt", weights_only=True)
    io = torch.load(oracle_dir / "wrn10_1_uncond_io.pt", weights_only=True)

    def model() -> EnergyModel:
        made = build_model((3, 32, 32), 10, depth=10, width=1)
        made.load_state_dict(from_release_state(torch.load(checkpoint, weights_only=True)["model_state_dict"]))
        kernels.use_native(made)
        return made.train()

    assert float((-model().energy(io["x"]).detach() - io["energy_train"]).abs().max()) <= 1e-5
    for n_steps, limit in ((1, 1e-5), (2, 1e-4), (5, 1e-2)):
        of_run = model()
        with of_run.frozen_weights():
            x, _ = sgld(of_run.energy, values["start"], n_steps, 1.0, 0.0, 1.0)
        assert float((x - values[f"final_{n_steps}"]).abs().mean()) <= limit, n_steps


@needs_compiler
@pytest.mark.parametrize(("precision", "limits"), [("float32", (1e-4, 1e-2, 2e-2)), ("bf16", (0.02, 0.1, 0.1))])
def test_training_gives_the_numbers_of_eager_float32(digits, precision, limits):
    def losses(**changes) -> list[float]:
        train = smoke.section("train", pyx_weight=1.0, log_every=1, **changes)
        run = Run(train, digits, UniformInit(digits.shape), torch.device("cpu"))
        for _ in range(3):
            step(run)
        return [row["loss"] for row in run.rows]

    # kinks of LeakyReLU amplify rounding, so later iterations are farther apart
    for ours, theirs, limit in zip(losses(precision=precision, kernels="native"), losses(), limits, strict=True):
        assert abs(ours - theirs) <= limit * max(abs(theirs), 1)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_training_goes_on_with_the_weights_that_it_has_reached(digits, optimiser):
    """Fused optimisers change weights unseen: transforms of the first ones must not stay."""
    options = {"batch_size": 16, "label_batch_size": 16, "buffer_size": 64, "warmup_iters": 0, "kernels": "native"}
    train = smoke.section("train", optimiser=optimiser, lr=0.1, pyx_weight=1.0, **options)
    run = Run(train, digits, UniformInit(digits.shape), torch.device("cpu"))
    for _ in range(3):
        step(run)
    plain = build_model(digits.shape, digits.n_classes, depth=train.depth, width=train.width)
    plain.load_state_dict(run.model.state_dict())
    x = 2 * torch.rand(16, *digits.shape, generator=torch.Generator().manual_seed(0)) - 1
    with torch.no_grad():
        torch.testing.assert_close(run.model.energy(x), plain.train().energy(x), rtol=1e-3, atol=1e-3)


def test_without_a_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(ParamsError, match="no C\\+\\+ compiler; install g\\+\\+"):
        kernels.library.__wrapped__()
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(ParamsError, match="false fails"):
        kernels.library.__wrapped__()
    monkeypatch.setenv("CXX", "no-such-compiler --fast")
    with pytest.raises(ParamsError, match="no-such-compiler --fast fails"):
        kernels.library.__wrapped__()
    assert not list(tmp_path.rglob("*.so"))


@needs_compiler
@pytest.mark.parametrize("damage", ["half", "empty", "changed"])
def test_a_damaged_library_is_built_again(monkeypatch, tmp_path, damage):
    """Half of one would end the process with a bus error."""
    source = tmp_path / "kernels.cpp"
    names = [f"{name}_{kind}" for kind in ("float", "bf16") for name in ("winograd", "winograd_weight", "norm_act")]
    names += ["norm_act_back_float", "norm_act_back_bf16"]
    source.write_text("".join(f'extern "C" int {name}() {{ return 7; }}\n' for name in names))
    monkeypatch.setattr(kernels, "SOURCE", source)
    monkeypatch.setattr(kernels, "FLAGS", ("-shared", "-fPIC"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.library.__wrapped__()
    (path,) = (tmp_path / "mebm" / "kernels").iterdir()
    whole = path.read_bytes()
    path.unlink()  # another file: the one before is in use by this process
    path.write_bytes({"half": whole[: len(whole) // 2], "empty": b"", "changed": whole[:-1] + b"x"}[damage])
    assert kernels.library.__wrapped__().winograd_float.argtypes
    (path,) = (tmp_path / "mebm" / "kernels").iterdir()
    assert path.read_bytes() == whole
    time = path.stat().st_mtime_ns
    kernels.library.__wrapped__()
    assert path.stat().st_mtime_ns == time  # a whole one is taken as it is


@needs_compiler
def test_too_few_values_are_an_error_as_they_are_for_pytorch():
    model = nn.Sequential(nn.BatchNorm2d(16))
    kernels.use_native(model)
    for shape in ((0, 16, 4, 4), (1, 16, 1, 1)):
        with pytest.raises(ValueError, match="more than one value"):
            model[0].activated(torch.zeros(shape), 0.2)


@needs_compiler
def test_fewer_threads_than_asked_for_give_the_same_numbers():
    """OpenMP may grant fewer: then each does more."""
    code = (
        "import torch; from torch import nn; from mebm import kernels; torch.manual_seed(0); torch.set_num_threads(4)\n"
        "m = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16)); kernels.use_native(m)\n"
        "x = torch.randn(3, 16, 9, 9, requires_grad=True)\n"
        "y = m[1].activated(m[0](x), 0.2); (y**3).sum().backward()\n"
        "print(*(float(v.double().abs().sum()) for v in (y, x.grad, m[0].weight.grad, m[0].bias.grad, m[1].bias.grad)))"
    )

    def numbers(**environment: str) -> list[float]:
        done = subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
        )
        return [float(word) for word in done.stdout.split()]

    assert numbers(OMP_THREAD_LIMIT="1") == pytest.approx(numbers(), rel=1e-3, abs=1e-2)
