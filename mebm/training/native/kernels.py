"""Our own CPU kernels: convolutions by Winograd's method, and BatchNorm with LeakyReLU in one pass.

kernels.cpp holds them; it is compiled once for a machine, at first use. The mathematics is the same as PyTorch's,
rounding is not: in float32 a convolution differs by 1e-5 of its largest value, a weight gradient by 5e-5. With bf16
autocast images are kept in bf16; sums, transforms and normalisation are float32. Products are of 16 bits where the
processor has them: integers with a scale a tile and a filter (AVX-512 VNNI), and in weight gradients bf16 (AVX-512
BF16), so that errors are about those of PyTorch's bf16 convolutions; elsewhere they are float32 too, and more exact.
"""

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mebm.errors import DataError, ParamsError
from mebm.files import sha256
from mebm.folders import own_folder

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
HASH = 16  # digits of a library's hash in its name
LANES = 16  # channels come in multiples of it
DTYPES = (torch.float32, torch.bfloat16)  # of images
CHUNK, SUM = 128, 2.0**31 / 32768  # kernels.cpp: channels summed in 32 bits; what integers of a filter may add up to


def _filter_transform(a: float, b: float, s: float) -> Tensor:
    """F(4x4, 3x3), points 0, a, -a, b, -b and infinity: filters are transformed by G w G^T; this is kron(G, G)."""

    def rows(p: float, q: float, scale: float) -> list[list[float]]:
        by = scale / (2 * p**2 * (p**2 - q**2))
        return [[by, by * p, by * p**2], [by, -by * p, by * p**2]]

    g = [[1 / (a * b) ** 2, 0, 0], *rows(a, b, 1), *rows(b, a, s), [0, 0, 1]]
    return torch.kron(torch.tensor(g, dtype=torch.float64), torch.tensor(g, dtype=torch.float64)).float()  # [36, 9]


# as in kernels.cpp, for images of either type
_POINTS = {torch.float32: _filter_transform(1, 2, 1), torch.bfloat16: _filter_transform(11 / 16, 3 / 2, 2)}


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises ParamsError where there is no compiler, or the source does not compile."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise ParamsError("train.kernels is native, but there is no C++ compiler; install g++, or set it to torch")
    cpu = Path("/proc/cpuinfo")
    text = cpu.read_text(encoding="utf-8", errors="replace") if cpu.is_file() else platform.processor()
    machine = text.split("\n\n")[0]
    machine = "\n".join(line for line in machine.splitlines() if not line.startswith(("cpu MHz", "bogomips")))
    made_of = [SOURCE.read_text(encoding="utf-8"), *FLAGS, compiler, machine]
    key = hashlib.sha256("\n".join(made_of).encode()).hexdigest()[:16]
    folder = own_folder("kernels")
    path = next(filter(_is_whole, folder.glob(f"kernels-{key}-*.so")), None) or _compiled(compiler, folder, key)
    try:
        loaded = ctypes.CDLL(str(path))
    except OSError as error:
        raise ParamsError(f"{path}: cannot be loaded ({error}); delete it, or set train.kernels to torch") from error
    pointer, number, real, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_long
    for kind in ("float", "bf16"):
        getattr(loaded, f"winograd_{kind}").argtypes = [pointer] * 5 + [number] * 6
        getattr(loaded, f"winograd_weight_{kind}").argtypes = [pointer] * 4 + [number] * 6
        forward, backward = getattr(loaded, f"norm_act_{kind}"), getattr(loaded, f"norm_act_back_{kind}")
        forward.argtypes = [pointer] * 8 + [size, number, real, real, real, number]
        backward.argtypes = [pointer] * 9 + [size, number, real, number]
        forward.restype = backward.restype = None
    return loaded


def _is_whole(path: Path) -> bool:
    """Whether a library is what the hash in its name says: half of one ends the process without a word."""
    return path.is_file() and sha256(path)[:HASH] == path.stem.rsplit("-", 1)[1]


def _compiled(compiler: str, folder: Path, key: str) -> Path:
    """The library, compiled into the folder under a name with its own hash. Raises ParamsError as `library` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(dir=folder) as temporary:
            made = Path(temporary, "kernels.so")
            command = [*shlex.split(compiler), *FLAGS, str(SOURCE), "-o", str(made)]
            subprocess.run(command, capture_output=True, text=True, check=True)
            path = folder / f"kernels-{key}-{sha256(made)[:HASH]}.so"
            os.replace(made, path)
            return path
    except (OSError, DataError, subprocess.CalledProcessError) as error:
        reason = " ".join((getattr(error, "stderr", "") or str(error)).split())[:200]
        raise ParamsError(f"train.kernels is native, but {compiler} fails ({reason}); set it to torch") from error


class Filters(NamedTuple):
    """Winograd transforms of filters: float32 [36, C, K], or int16 [36, C / 2, K, 2] worth `scales` [K] each."""

    values: Tensor
    scales: Tensor | None = None


def transformed(weight: Tensor, dtype: torch.dtype) -> Filters:
    """Transforms of filters [K, C, 3, 3] for images of a type."""
    k, c = weight.shape[:2]
    with torch.autocast("cpu", enabled=False):  # which would make this product bf16
        values = (_POINTS[dtype] @ weight.detach().permute(2, 3, 1, 0).reshape(9, c * k)).view(36, c, k)
        return _integers(values) if dtype == torch.bfloat16 and library().integer_filters() else Filters(values)


def _integers(values: Tensor) -> Filters:
    """Transforms [36, C, K] rounded to the largest integers whose sums with 16-bit images stay within 32 bits."""
    c, k = values.shape[1:]
    sums = torch.stack([part.abs().sum(1).amax(0) for part in values.split(CHUNK, 1)]).amax(0)  # [K]
    per = (SUM - CHUNK) / sums.clamp_min(1e-30)  # less what rounding may add
    pairs = (values * per).round_().to(torch.int16).view(36, c // 2, 2, k)
    return Filters(pairs.transpose(2, 3).contiguous(), 1 / per)


def winograd(x: Tensor, filters: Filters, bias: Tensor | None) -> Tensor:
    """Convolution of x [N, C, H, W], float32 or bf16, with filters transformed for it, stride 1, zero padding 1."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    k = filters.values.shape[2]
    y = torch.empty((n, k, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    pointers = [None if tensor is None else tensor.data_ptr() for tensor in (x, *filters, bias, y)]
    if _of("winograd", x)(*pointers, n, h, w, c, k, torch.get_num_threads()):
        raise MemoryError
    return y


def weight_gradients(x: Tensor, dy: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients to filters [K, C, 3, 3] and bias [K] of a convolution of x [N, C, H, W], from that to its result."""
    n, c, h, w = x.shape
    k, threads = dy.shape[1], torch.get_num_threads()
    parts, bias = torch.zeros(threads, 36, c * k), torch.zeros(threads, k, dtype=torch.float64)
    pointers = (x.data_ptr(), dy.data_ptr(), parts.data_ptr(), bias.data_ptr())
    if _of("winograd_weight", x)(*pointers, n, h, w, c, k, threads):
        raise MemoryError
    with torch.autocast("cpu", enabled=False):
        gradient = (_POINTS[x.dtype].T @ parts.sum(0)).view(3, 3, c, k).permute(3, 2, 0, 1)
    return gradient.contiguous(memory_format=torch.channels_last), bias.sum(0).float()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, filters: Filters, mirrored: Filters) -> Tensor:
        ctx.trains, ctx.mirrored = weight.requires_grad, mirrored
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(*((x,) if ctx.trains else ()))
        return winograd(x, filters, bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = winograd(dy, ctx.mirrored, None) if ctx.needs_input_grad[0] else None
        if not ctx.trains:
            return dx, None, None, None, None
        return dx, *weight_gradients(*ctx.saved_tensors, dy), None, None


class Convolution(nn.Conv2d):
    """A 3x3 convolution of stride 1, by Winograd's method."""

    _transforms: tuple[tuple, Filters, Filters] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in DTYPES:
            return super().forward(x)
        key = (self.weight._version, x.dtype)
        if self._transforms is None or self._transforms[0] != key:  # once an iteration
            mirrored = transformed(self.weight.flip(2, 3).transpose(0, 1), x.dtype)
            self._transforms = (key, transformed(self.weight, x.dtype), mirrored)
        return _Convolution.apply(x, self.weight, self.bias, *self._transforms[1:])


class _NormAct(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, running_mean, running_var, momentum, eps, slope) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        if n * h * w < 2:
            raise ValueError(f"BatchNorm in training needs more than one value a channel, got {list(x.shape)}")
        y, mean, invstd = torch.empty_like(x), torch.empty(c), torch.empty(c)
        tensors = (x, y, weight, bias, running_mean, running_var, mean, invstd)
        numbers = (n * h * w, c, momentum, eps, slope, torch.get_num_threads())
        _of("norm_act", x)(*(tensor.data_ptr() for tensor in tensors), *numbers)
        ctx.save_for_backward(x, weight, bias, mean, invstd)
        ctx.slope = slope
        return y

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        x, weight, bias, mean, invstd = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        n, c, h, w = x.shape
        dx, dweight, dbias = torch.empty_like(x), torch.empty(c), torch.empty(c)
        tensors = (x, dy, dx, weight, bias, mean, invstd, dweight, dbias)
        numbers = (n * h * w, c, ctx.slope, torch.get_num_threads())
        _of("norm_act_back", x)(*(tensor.data_ptr() for tensor in tensors), *numbers)
        return dx, dweight, dbias, None, None, None, None, None


def _of(name: str, x: Tensor):
    return getattr(library(), f"{name}_{'bf16' if x.dtype == torch.bfloat16 else 'float'}")


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm that also applies the LeakyReLU behind it, in one pass over memory while it trains."""

    def activated(self, x: Tensor, slope: float) -> Tensor:
        """LeakyReLU of the normalised x, [B, C, H, W]."""
        if not (self.training and self.track_running_stats) or x.dtype not in DTYPES:
            return nn.functional.leaky_relu(self(x), slope)
        self.num_batches_tracked.add_(1)
        buffers = (self.running_mean, self.running_var)
        return _NormAct.apply(x, self.weight, self.bias, *buffers, self.momentum, self.eps, slope)


def use_native(model: nn.Module, optimiser: torch.optim.Optimizer | None = None) -> None:
    """Put our kernels into a model on the CPU, parameters and names unchanged. Raises ParamsError like `library`.

    optimiser: that of the model's weights. Convolutions keep transforms of their filters until PyTorch counts a change
    of the weight, and fused optimisers change weights without its counting: so each step drops the transforms.
    """
    library()
    if optimiser is not None:
        optimiser.register_step_post_hook(lambda *_: _forget(model))
    for parent in model.modules():
        for child in parent.children():
            if type(child) is nn.BatchNorm2d and child.num_features % LANES == 0:
                child.__class__ = BatchNorm
            if type(child) is nn.Conv2d and _fits(child):
                child.__class__ = Convolution


def _forget(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, Convolution):
            module._transforms = None


def _fits(conv: nn.Conv2d) -> bool:
    usual = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1)) and conv.bias is not None
    return usual and conv.in_channels % LANES == 0 and conv.out_channels % LANES == 0
