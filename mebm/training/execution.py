"""How the device's part of an iteration is launched: operation by operation, compiled, or as one CUDA graph.

Launching an iteration's thousands of kernels takes the host longer than a fast GPU needs to run them
(docs/performance.md, Launches). A graph records them once, with the addresses of their tensors, and launches them
together. It wraps the same functions that run without it, and what changes from one iteration to the next is copied
into fixed places before.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from mebm.errors import ParamsError

FASTEST = {"cpu": "eager", "cuda": "eager"}  # of what was measured on each kind of device (docs/performance.md)
CACHE = Path(".state/compiled")  # what torch.compile made, kept from one job to the next
WARM_UPS = 3  # PyTorch's recommendation before a capture: libraries load, and memory is asked for

Outputs = tuple[Tensor | None, ...]
Capture = Callable[[Callable[[], Outputs]], tuple[Callable[[], None], Outputs]]


def way_of(execution: str, device: torch.device) -> str:
    """What a setting of `train.execution` means on a device: one of its values, but "auto".

    Raises ParamsError for a graph without CUDA.
    """
    way = FASTEST.get(device.type, "eager") if execution == "auto" else execution
    if "graph" in way and device.type != "cuda":
        advice = f"which needs CUDA, but the device is {device.type}; set it to auto"
        raise ParamsError(f"train.execution is {way}, {advice}")
    return way


def launcher(
    body: Callable[..., Outputs], way: str, changes: Callable[[], dict[str, Tensor]] = dict
) -> Callable[..., Outputs]:
    """The body itself, or a `Replay` of it where the way is one with a graph."""
    return Replay(body, changes) if "graph" in way else body


def compile_network(network: torch.nn.Module) -> None:
    """Let torch.compile make the network's training passes, for fixed shapes, when each is first called."""
    for variable, part in (("TORCHINDUCTOR_CACHE_DIR", "inductor"), ("TRITON_CACHE_DIR", "triton")):
        os.environ.setdefault(variable, str((CACHE / part).absolute()))
    # The compiler has a setting of its own, which this call sets as well.
    torch.use_deterministic_algorithms(torch.are_deterministic_algorithms_enabled())
    network.compile(dynamic=False)


class Replay:
    """A function of tensors in fixed places, launched as one graph after a first call that records it.

    body: called with the places, only launches work: what Python decides in it is decided when it is recorded.
    changes: the tensors that it changes, by name, looked up anew at each call; those that appear meanwhile start as
    zeros, as momentum does. capture: records what a function launches and returns how to launch it again, and its
    outputs. Recording runs the body a few times and then puts everything back, so that every call is a replay: a run
    that was interrupted goes on in the same bytes.
    """

    def __init__(
        self, body: Callable[..., Outputs], changes: Callable[[], dict[str, Tensor]], capture: Capture | None = None
    ):
        self._body, self._changes, self._capture = body, changes, capture or cuda_graph
        self._places: list[Tensor | None] | None = None
        self.seconds = 0.0  # that recording took

    def __call__(self, *values: Tensor | None) -> Outputs:
        """Copies of the body's outputs for these values, whose shapes are those of the first call."""
        if self._places is None:
            self._record(values)
        else:
            for place, value in zip(self._places, values, strict=True):
                if place is not None:
                    place.copy_(value, non_blocking=True)
        self._launch()
        return tuple(None if output is None else output.clone() for output in self._outputs)

    def _record(self, values: tuple[Tensor | None, ...]) -> None:
        start = time.monotonic()
        before = {name: value.clone() for name, value in self._changes().items()}
        self._places = [None if value is None else value.clone() for value in values]
        self._launch, self._outputs = self._capture(lambda: self._body(*self._places))
        with torch.no_grad():
            for name, value in self._changes().items():
                value.copy_(before[name]) if name in before else value.zero_()
        self.seconds = time.monotonic() - start


def cuda_graph(body: Callable[[], Outputs]) -> tuple[Callable[[], None], Outputs]:
    """Record what `body` launches, after some warm-ups on the stream of the recording."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            body()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    # Other threads may meanwhile use the GPU, such as one that writes a state.
    with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
        outputs = body()
    return graph.replay, outputs
