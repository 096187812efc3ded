"""One of two processes: a step of training, its batches written down. Started by tests/test_parallel.py."""

import sys
from dataclasses import replace

import smoke
import torch

from mebm.data.images import load_images
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.method.iteration import draw
from mebm.training import parallel
from mebm.training.loop import step
from mebm.training.run import Run

data, out = load_images(sys.argv[1]), sys.argv[2]
settings = smoke.section("train", norm="layer", pyx_weight=1.0, l2_coeff=0.0, noise_std=0.0, warmup_iters=0, lr=0.01)
with parallel.joined(torch.device("cpu")):
    init = GaussianInit.from_moments(*fit_gaussian(data.images), data.shape, 1e-4)
    run = Run(settings, data, init, torch.device("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    whole = parallel.gathered(run.buffer.images)
    seen = {}

    def watched(*args):
        drawn = draw(*args)
        seen.update(x_pos=drawn.x_pos, x_init=drawn.x_init, x_lab=drawn.labelled[0], labels=drawn.labelled[1])
        return drawn

    run.algorithm = replace(run.algorithm, draw=watched)
    step(run)
    gradients = {name: p.grad for name, p in run.model.named_parameters()}
    record = {**seen, "before": before, "after": run.model.state_dict(), "gradients": gradients, "whole": whole}
    torch.save({**record, "shard": run.buffer.images}, f"{out}.{parallel.rank()}.pt")
