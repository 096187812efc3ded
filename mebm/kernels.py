"""Our own CPU kernels: convolutions by Winograd's method, and BatchNorm with LeakyReLU in one pass.

kernels.cpp holds them; it is compiled once for a machine, at first use. The mathematics is the same as PyTorch's,
rounding is not: in float32 a convolution differs by 1e-5 of its largest value, a weight gradient by 5e-5. With bf16
autocast images are kept in bf16 and all arithmetic is float32, which is more exact than a bf16 convolution.
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

import torch
from torch import Tensor, nn

from mebm.errors import ParamsError
from mebm.files import replacing

SOURCE = Path(__file__).with_name("kernels.cpp")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-ffp-contract=fast", "-fno-math-errno", "-fopenmp", "-shared", "-fPIC")
LANES = 16  # channels come in multiples of it
DTYPES = (torch.float32, torch.bfloat16)  # of images
# F(4x4, 3x3), points 0, 1, -1, 2, -2 and infinity: filters are transformed by G w G^T
_G = torch.tensor(
    [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    dtype=torch.float64,
)
_BOTH = torch.kron(_G, _G).float()  # [36, 9]


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels. Raises ParamsError where there is no compiler, or the source does not compile."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++")
    if not compiler:
        raise ParamsError("train.kernels is native, but there is no C++ compiler; install g++, or set it to torch")
    cpu = Path("/proc/cpuinfo")
    machine = cpu.read_text().split("\n\n")[0] if cpu.is_file() else platform.processor()
    machine = "\n".join(line for line in machine.splitlines() if not line.startswith(("cpu MHz", "bogomips")))
    key = hashlib.sha256("\n".join([SOURCE.read_text(), *FLAGS, compiler, machine]).encode()).hexdigest()[:16]
    folder = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "mebm"
    path = folder / f"kernels-{key}.so"
    if not path.is_file():
        with replacing(path) as temporary:
            command = [*shlex.split(compiler), *FLAGS, str(SOURCE), "-o", str(temporary)]
            try:
                subprocess.run(command, capture_output=True, text=True, check=True)
            except (OSError, subprocess.CalledProcessError) as error:
                reason = " ".join((getattr(error, "stderr", "") or str(error)).split())[:200]
                raise ParamsError(
                    f"train.kernels is native, but {compiler} fails ({reason}); set it to torch"
                ) from error
    loaded = ctypes.CDLL(str(path))
    pointer, number, real, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_float, ctypes.c_long
    for kind in ("float", "bf16"):
        getattr(loaded, f"winograd_{kind}").argtypes = [pointer] * 4 + [number] * 6
        getattr(loaded, f"winograd_weight_{kind}").argtypes = [pointer] * 4 + [number] * 6
        forward, backward = getattr(loaded, f"norm_act_{kind}"), getattr(loaded, f"norm_act_back_{kind}")
        forward.argtypes = [pointer] * 8 + [size, number, real, real, real, number]
        backward.argtypes = [pointer] * 9 + [size, number, real, number]
        forward.restype = backward.restype = None
    return loaded


def transformed(weight: Tensor) -> Tensor:
    """Winograd transforms of filters [K, C, 3, 3]: [36, C, K]."""
    k, c = weight.shape[:2]
    with torch.autocast("cpu", enabled=False):  # which would make this product bf16
        return (_BOTH @ weight.detach().permute(2, 3, 1, 0).reshape(9, c * k)).view(36, c, k)


def winograd(x: Tensor, filters: Tensor, bias: Tensor | None) -> Tensor:
    """Convolution of x [N, C, H, W], float32 or bf16, with transformed filters [36, C, K], stride 1, zero padding 1."""
    x = x.contiguous(memory_format=torch.channels_last)
    n, c, h, w = x.shape
    k = filters.shape[2]
    y = torch.empty((n, k, h, w), dtype=x.dtype, memory_format=torch.channels_last)
    pointers = (x.data_ptr(), filters.data_ptr(), None if bias is None else bias.data_ptr(), y.data_ptr())
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
        gradient = (_BOTH.T @ parts.sum(0)).view(3, 3, c, k).permute(3, 2, 0, 1)
    return gradient.contiguous(memory_format=torch.channels_last), bias.sum(0).float()


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, filters: Tensor, mirrored: Tensor) -> Tensor:
        ctx.trains = weight.requires_grad
        x = x.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(mirrored, *((x,) if ctx.trains else ()))
        return winograd(x, filters, bias)

    @staticmethod
    def backward(ctx, dy: Tensor) -> tuple:
        mirrored, *more = ctx.saved_tensors
        dy = dy.contiguous(memory_format=torch.channels_last)
        dx = winograd(dy, mirrored, None) if ctx.needs_input_grad[0] else None
        if not ctx.trains:
            return dx, None, None, None, None
        return dx, *weight_gradients(more[0], dy), None, None


class Convolution(nn.Conv2d):
    """A 3x3 convolution of stride 1, by Winograd's method."""

    _transforms: tuple[int, Tensor, Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype not in DTYPES:
            return super().forward(x)
        version = self.weight._version
        if self._transforms is None or self._transforms[0] != version:  # weights changed: once an iteration
            mirrored = transformed(self.weight.flip(2, 3).transpose(0, 1))
            self._transforms = (version, transformed(self.weight), mirrored)
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


def use_native(model: nn.Module) -> None:
    """Put our kernels into a model on the CPU, parameters and names unchanged. Raises ParamsError like `library`."""
    library()
    for parent in model.modules():
        for child in parent.children():
            if type(child) is nn.BatchNorm2d and child.num_features % LANES == 0:
                child.__class__ = BatchNorm
            if type(child) is nn.Conv2d and _fits(child):
                child.__class__ = Convolution


def _fits(conv: nn.Conv2d) -> bool:
    usual = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1)) and conv.bias is not None
    return usual and conv.in_channels % LANES == 0 and conv.out_channels % LANES == 0
