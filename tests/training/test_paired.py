"""x+ and x- in one pass: the numbers of passes of their own, up to rounding."""

import pytest
import smoke
import torch
from test_execution import gpu_run, record, run_of, steps
from test_execution import assert_same as assert_same_bytes
from test_replay import SETTINGS, images_of, started
from torch.autograd import gradcheck

from mebm.method.iteration import terms
from mebm.training import paired
from mebm.training.loop import step
from mebm.training.paired import Convolution, Flipped, PairedNorm
from mebm.training.run import Run

VARIANTS = {
    "M-EBM": {},
    "M-JEM": {"pyx_weight": 1.3},
    "log-sum-exp": {"pyx_weight": 1.0, "head": "logsumexp"},
    "Adam": {"pyx_weight": 1.0, "optimiser": "adam"},
    "sharpness-aware": {"pyx_weight": 1.0, "algorithm": "sharpness_aware"},
    "no steps": {"n_steps": 0},
    "a classifier alone": {"px_weight": 0.0, "pyx_weight": 1.0},
    "layer norm": {"norm": "layer"},
    "instance norm": {"norm": "instance"},
    "no norm": {"norm": "none"},
}


def wide(**changes) -> Run:
    """A run in float64 before its first iteration, with settings under which every part does something."""
    train = smoke.section("train", **SETTINGS | changes)
    return started(train, images_of("M-EBM")[0])

def close(one, two, limit=1e-9):
    worst = 0
    for name, value in one._changes().items():
        other = two._changes()[name]
        d = float((value.double()-other.double()).abs().max()) / max(float(value.double().abs().max()), 1.0)
        worst=max(worst,d)
        assert d < limit, (name, d)
    return worst

@pytest.mark.parametrize("variant", VARIANTS)
def test_ten(variant):
    plain, pair = wide(**VARIANTS[variant]), wide(**VARIANTS[variant], execution="paired")
    for i in range(10):
        step(plain); step(pair)
        print(i, close(plain, pair))
