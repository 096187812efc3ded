"""What a CUDA graph does, on a CPU: operations recorded with the addresses of their tensors, and run again as recorded.

What Python decided meanwhile (numbers, branches, shapes) is kept as it was, as in a graph; questions to the device,
which a recording of CUDA refuses, are errors here, too.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

QUESTIONS = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "_unique2", "item")


class _Recorder(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.calls: list[tuple] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert func.__name__.split(".")[0] not in QUESTIONS, f"{func} waits for the device"
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        given = {_address(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)}
        fresh = [isinstance(out, Tensor) and _address(out) not in given for out in tree_flatten(made)[0]]
        self.calls.append((func, args, kwargs, tree_flatten(made)[0], fresh))
        return made


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def tape(body: Callable) -> tuple[Callable[[], None], tuple]:
    """Record what `body` computes; returns how to compute it again, into the same tensors, and its outputs."""
    body()  # a warm-up, after which the optimiser has its momentum
    with _Recorder() as recorder:
        outputs = body()

    @torch.no_grad()
    def launch() -> None:
        for func, args, kwargs, outs, fresh in recorder.calls:
            again = tree_flatten(func(*args, **kwargs))[0]
            for out, new, is_fresh in zip(outs, again, fresh, strict=True):
                if is_fresh:
                    out.copy_(new)

    return launch, outputs
