"""One of two processes: a step of training, its batches written down. Started by tests/test_parallel.py."""

import sys

import smoke
import torch

from mebm.data.images import load_images
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.training import loop as training
from mebm.training import parallel
from mebm.training.loop import Training

data, out = load_images(sys.argv[1]), sys.argv[2]
settings = smoke.section("train", norm="layer", pyx_weight=1.0, l2_coeff=0.0, noise_std=0.0, warmup_iters=0, lr=0.01)
with parallel.joined(torch.device("cpu")):
    init = GaussianInit.from_moments(*fit_gaussian(data.images), data.shape, 1e-4)
    run = Training(settings, data, init, torch.device("cpu"))
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    whole = parallel.gathered(run.buffer.images)
    original, seen = training.forward_passes, {}

    def watched(model, x_pos, x_init, labelled, *rest):
        seen.update(x_pos=x_pos, x_init=x_init, x_lab=labelled[0], labels=labelled[1])
        return original(model, x_pos, x_init, labelled, *rest)

    training.forward_passes = watched
    run.step()
    gradients = {name: p.grad for name, p in run.model.named_parameters()}
    record = {**seen, "before": before, "after": run.model.state_dict(), "gradients": gradients, "whole": whole}
    torch.save({**record, "shard": run.buffer.images}, f"{out}.{parallel.rank()}.pt")
