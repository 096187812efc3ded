"""The training loop: iterations of the published algorithm, looks at the run, saved states, stops and restarts."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor

from mebm.data.images import ImageSet
from mebm.epochs import kept_epochs, look_epochs
from mebm.errors import Diverged, MetricError, Stopped
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.evaluation import score
from mebm.method.buffer import ReplayBuffer
from mebm.method.energy import EnergyModel
from mebm.method.gaussian import Init
from mebm.method.schedule import lr_at
from mebm.settings.schema import Train
from mebm.training import parallel
from mebm.training.records import Row
from mebm.training.run import Run
from mebm.training.state import StateStore
from mebm.training.watch import unusual


@dataclass
class Trained:
    """What a run leaves at its end, or has at a look: the model (in training mode), its chains, and how it came about.

    rows, epochs: its log; averages: averaged weights by decay; execution: the way that iterations were launched;
    preparation: seconds that compiling and recording them took.
    """

    model: EnergyModel
    buffer: ReplayBuffer
    iterations: int
    rows: list[Row]
    epochs: list[Row]
    restarts: int
    averages: dict[float, dict[str, Tensor]]
    execution: str
    preparation: float


def train_model(
    train: Train,
    data: ImageSet,
    init: Init,
    device: torch.device,
    *,
    test: ImageSet | None = None,
    validation: ImageSet | None = None,
    eval_batch_size: int = 500,
    on_log: Callable[[Run], None] = lambda _: None,
    on_look: Callable[[Run], None] = lambda _: None,
    on_keep: Callable[[Trained, int], None] = lambda *_: None,
    on_divergence: Callable[[Diverged, Run], None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    states: StateStore | None = None,
    save_every: int = 500,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train on `data` with chains started from `init`, from the newest of `states` if there is one.

    test, validation: held-out images for the classifier's accuracy at every look. on_log: called after every
    `log_every` iterations; on_look: before the first, at the end of every `grid_every` epochs and of the last; on_keep:
    then, after epochs whose weights are kept, with the epoch; on_divergence: before a divergence is acted upon.
    save_every: iterations between saved states. stop: asked before every iteration; when it says so the state is saved
    and Stopped raised. Raises Diverged at a divergence, or after `max_restarts` of them with on_divergence "restart".
    A run that was interrupted and goes on ends in the same numbers as one that was not.
    """
    run = Run(train, data, init, device)
    looks, kept = look_epochs(train), kept_epochs(train)
    check = 1 if parallel.world() == 1 else train.log_every  # asking all ranks takes a message
    state = states.newest() if states else None
    if state is not None:
        run.load(state)
        say(f"goes on from iteration {run.iteration} of {run.total}")
    prepared = 0.0  # seconds of the first iteration, which compiles and records
    while True:
        try:
            if run.iteration == 0:
                on_look(run)
            while run.iteration < run.total:
                if run.iteration % check == 0 and parallel.any_rank(stop()):
                    if states:
                        _save(states, run, stopped=True)
                    raise Stopped(f"stopped before iteration {run.iteration} of {run.total}, with its state saved")
                started = time.monotonic()
                step(run)
                if not prepared:
                    run.watch.finish()
                    prepared = time.monotonic() - started
                last = run.iteration == run.total
                if run.rows and run.rows[-1]["iteration"] == run.iteration - 1:
                    on_log(run)
                    if warning := unusual(run.rows):
                        say(f"warning: {warning}")
                if run.iteration % run.per_epoch == 0 and run.epoch in looks:
                    run.watch.finish()
                    if parallel.rank() == 0:
                        evaluate(run, {"": test, "validation_": validation}, eval_batch_size)
                    on_look(run)
                    if run.epoch in kept:
                        on_keep(_trained(run, prepared), run.epoch)
                if states and run.iteration % save_every == 0 and not last:
                    _save(states, run)
            if states:
                states.wait()
            return _trained(run, prepared)
        except Diverged as error:
            on_divergence(error, run)
            restarts = run.restarts
            if train.on_divergence == "stop" or restarts >= train.max_restarts:
                raise
            if states:
                states.wait()
            parallel.any_rank(False)  # barrier: no rank looks for a state before the last one is on disk
            state = states.back(drop=parallel.rank() == 0) if states else None
            run = Run(train, data, init, device)
            if state is not None:
                run.load(state)
            while run.restarts <= restarts:
                run.reseed_chains()
            say(f"{error}; restart {run.restarts} of {train.max_restarts} from iteration {run.iteration}")
            if states:
                _save(states, run)


def step(run: Run) -> None:
    """One iteration, recorded and watched. Raises Diverged, on a GPU at most one iteration later."""
    train = run.train
    schedule = {key: getattr(train, key) for key in ("lr", "warmup_iters", "decay_epochs", "decay_factor")}
    rate = train.restart_lr_factor**run.restarts * lr_at(run.iteration, run.epoch, **schedule)
    run.set_rate(rate)
    values, x_neg = run.launch(*run.algorithm.choose(train, run.inputs))
    run.averages.update(run.model, run.iteration)
    row = {"iteration": run.iteration, "epoch": run.epoch, "lr": rate}
    run.log.add(values)
    run.watch.look(run.iteration, values, x_neg)
    run.iteration += 1
    if run.log.interval == train.log_every or run.iteration == run.total:
        run.watch.finish()
        run.log.close(row, parallel.mean_over_ranks(run.log.sums / run.log.interval), x_neg)


def evaluate(run: Run, held_out: dict[str, ImageSet | None], batch_size: int) -> None:
    """Note the classifier's accuracy and loss on sets of held-out images, running statistics; changes no later number.

    held_out: the sets, by what stands before the names of their columns.
    """
    row = {"epoch": run.epoch, "iteration": run.iteration}
    for name, images in held_out.items():
        if not run.train.pyx_weight or images is None or not len(images):
            continue
        # Not finite with running statistics: no figure, and training goes on. What is compiled is for training.
        with suppress(MetricError), torch.compiler.set_stance("force_eager"):
            logits = score(run.model, images.images, batch_size, bn_stats="running").logits
            row[f"{name}accuracy"], row[f"{name}loss"] = accuracy_and_loss(logits, images.labels)
    run.log.epochs.append(row)


def _trained(run: Run, prepared: float) -> Trained:
    """What the run has now. Raises Diverged if its last iteration did."""
    run.watch.finish()
    buffer = ReplayBuffer(parallel.gathered(run.buffer.images)) if parallel.world() > 1 else run.buffer
    prepared = 0.0 if run.way in ("eager", "paired") else prepared
    return Trained(
        run.model,
        buffer,
        run.iteration,
        run.rows,
        run.log.epochs,
        run.restarts,
        run.averages.state(),
        run.way,
        prepared,
    )


def _save(states: StateStore, run: Run, stopped: bool = False) -> None:
    """All ranks give their part of the state; the first one writes it, beside training unless that stops here."""
    state = run.state()
    if parallel.rank() == 0 and stopped:
        states.wait()
        states.save(state, run.iteration, stopped)
    elif parallel.rank() == 0:
        states.save_behind(state, run.iteration)
