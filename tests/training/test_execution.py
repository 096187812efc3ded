"""An iteration recorded once and replayed gives the numbers of one launched anew each time."""

import os
from pathlib import Path

import pytest
import smoke
import torch
from tape import tape

from mebm.errors import ParamsError
from mebm.training.execution import Replay, compile_network, way_of
from mebm.training.loop import step
from mebm.training.run import Run

CPU = torch.device("cpu")
VARIANTS = {
    "M-EBM": {},
    "M-JEM": {"pyx_weight": 1.0},
    "log-sum-exp": {"pyx_weight": 1.0, "head": "logsumexp"},
    "without augmentation": {"pyx_weight": 1.0, "augment_pad": 0, "augment_flip": False},
    "without noise": {"noise_std": 0.0},
    "a classifier alone": {"px_weight": 0.0, "pyx_weight": 1.0},
    "Adam": {"optimiser": "adam", "lr": 1e-3},
    "bf16": {"pyx_weight": 1.0, "precision": "bf16"},
    "sharpness-aware": {"pyx_weight": 1.0, "algorithm": "sharpness_aware"},
    "layer norm": {"norm": "layer", "lr": 1e-3},
}


def run_of(digits, init, recorded: bool = False, rate_in_place: bool = True, **changes) -> Run:
    """A run before its first iteration, small, in which chains restart and the rate changes from one to the next."""
    base = {"reinit_freq": 0.3, "warmup_iters": 6, "epochs": 20, "log_every": 1}
    base |= {"batch_size": 16, "label_batch_size": 24, "buffer_size": 40}
    run = Run(smoke.section("train", **{**base, **changes}), digits, init, CPU)
    return record(run, rate_in_place) if recorded else run


def record(run: Run, rate_in_place: bool = True) -> Run:
    """Let the run record its first iteration and replay it from then on."""
    if rate_in_place:  # as on a GPU
        for group in run.optimiser.param_groups:
            group["lr"] = torch.tensor(group["lr"], dtype=torch.float64)
    run.launch = Replay(run.device_part, run._changes, tape)
    return run


def steps(run: Run, n: int) -> Run:
    for _ in range(n):
        step(run)
    return run


def assert_same(one: Run, two: Run) -> None:
    for name, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[name]), name
    for name, value in one._changes().items():
        assert torch.equal(value, two._changes()[name]), name
    assert one.rows == two.rows


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_recorded_iteration_is_the_iteration(digits, init, variant):
    eager = steps(run_of(digits, init, **VARIANTS[variant]), 6)
    replayed = steps(run_of(digits, init, recorded=True, **VARIANTS[variant]), 6)
    assert_same(eager, replayed)
    assert len({row["loss"] for row in replayed.rows}) == 6


def test_a_recording_keeps_what_python_decided(digits, init):
    """So that the test above could fail: a rate that is a number stays that of the first iteration, 0."""
    eager = steps(run_of(digits, init), 3)
    kept = steps(run_of(digits, init, recorded=True, rate_in_place=False), 3)
    assert not torch.equal(eager.model.energy_head.weight, kept.model.energy_head.weight)


def test_a_recorded_run_goes_on_from_a_state_in_the_same_bytes(digits, init):
    whole = steps(run_of(digits, init, recorded=True, pyx_weight=1.0), 7)
    first = steps(run_of(digits, init, recorded=True, pyx_weight=1.0), 3)
    second = run_of(digits, init, pyx_weight=1.0)
    second.load(first.state())
    assert_same(whole, steps(record(second), 4))


def test_a_question_to_the_device_cannot_be_recorded(digits, init):
    run = run_of(digits, init, recorded=True)
    part = run.device_part
    run.launch = Replay(lambda *choices: (part(*choices)[0] * float(run.buffer.images.sum()), None), run._changes, tape)
    with pytest.raises(AssertionError, match="waits for the device"):
        step(run)


def test_recording_changes_nothing(digits, init):
    run = run_of(digits, init, recorded=True)
    before = {name: value.clone() for name, value in run._changes().items()}
    choices = run.algorithm.choose(run.train, run.inputs)
    run.launch._record(choices)
    after = run._changes()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    momentum = {name for name in after if name not in before}
    assert momentum
    assert not any(after[name].any() for name in momentum)


def test_ways_by_name_and_by_device():
    assert way_of("auto", CPU) == way_of("eager", CPU) == "eager"
    assert [way_of(way, CPU) for way in ("compile", "compile+paired")] == ["compile", "compile+paired"]
    assert way_of("graph+compile", torch.device("cuda")) == "graph+compile"
    with pytest.raises(ParamsError, match=r"train\.execution is graph, which needs CUDA"):
        way_of("graph", CPU)


def test_a_compiled_network_is_kept_with_the_project(monkeypatch):
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    compile_network(torch.nn.Identity())
    assert Path(os.environ["TORCHINDUCTOR_CACHE_DIR"]) == Path(".state/compiled/inductor").absolute()
    assert Path(os.environ["TRITON_CACHE_DIR"]).is_relative_to(Path(".state").absolute())


@pytest.mark.parametrize("wanted", [True, False])
def test_the_compiler_is_told_of_determinism(wanted):
    torch.set_deterministic_debug_mode("error" if wanted else "default")  # which says nothing to it
    try:
        compile_network(torch.nn.Identity())
        assert torch._inductor.config.deterministic is wanted
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.gpu
@pytest.mark.parametrize("changes", [{"pyx_weight": 1.0}, {"precision": "bf16"}, {"optimiser": "adam", "lr": 1e-3}])
def test_a_cuda_graph_gives_the_numbers_of_single_launches(digits, init, changes, exact):
    """Equal kernels in equal order: the bytes of the weights, not only their values."""
    runs = {way: steps(gpu_run(digits, init, execution=way, **changes), 6) for way in ("eager", "graph")}
    assert_same(runs["eager"], runs["graph"])


@pytest.mark.gpu
def test_a_cuda_graph_goes_on_from_a_state_in_the_same_bytes(digits, init, exact):
    options = {"execution": "graph", "pyx_weight": 1.0, "precision": "bf16"}
    whole, again = (steps(gpu_run(digits, init, **options), 7) for _ in range(2))
    assert_same(whole, again)
    first, second = steps(gpu_run(digits, init, **options), 3), gpu_run(digits, init, **options)
    second.load(first.state())
    assert_same(whole, steps(second, 4))


@pytest.mark.gpu
def test_a_compiled_graph_agrees_with_single_launches(digits, init):
    eager, compiled = (steps(gpu_run(digits, init, execution=way), 3) for way in ("eager", "graph+compile"))
    for one, two in zip(eager.rows, compiled.rows, strict=True):
        assert two["loss"] == pytest.approx(one["loss"], rel=1e-3, abs=1e-4)


def gpu_run(digits, init, **changes) -> Run:
    base = {"reinit_freq": 0.3, "warmup_iters": 6, "epochs": 20, "log_every": 1}
    return Run(smoke.section("train", **{**base, **changes}), digits, init, torch.device("cuda"))
