"""The training loop, in the order of the published algorithm: draw, sample, loss, step, record."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from mebm.data.batches import BatchStream, augment
from mebm.data.images import ImageSet, bytes_to_unit
from mebm.errors import DataError, Diverged, MetricError, ParamsError, Stopped
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.evaluation import score
from mebm.method.buffer import ReplayBuffer
from mebm.method.energy import ARCHITECTURE, EnergyModel, build_model
from mebm.method.gaussian import GaussianInit, UniformInit
from mebm.method.loss import classification_term, generative_terms
from mebm.method.sgld import sgld
from mebm.seeds import generator_for
from mebm.settings.schema import Train
from mebm.training import parallel
from mebm.training.native.kernels import use_native
from mebm.training.state import StateStore

LOSS_LIMIT = 1e5  # METHOD: an iteration with |L| above it has diverged
RECORDED = (
    "energy_pos",
    "energy_neg",
    "energy_gap",
    "energy_l2",
    "cross_entropy",
    "loss",
    "grad_norm",
    "weight_grad_norm",
)
EPOCH_COLUMNS = ("epoch", "iteration", "accuracy", "loss")
LOG_COLUMNS = ("iteration", "epoch", "lr", *RECORDED, "x_neg_min", "x_neg_max")


@dataclass
class Trained:
    """What a finished run leaves: the model (in training mode), its chains, its log, and how it came about."""

    model: EnergyModel
    buffer: ReplayBuffer
    iterations: int
    rows: list[dict[str, float]]
    epochs: list[dict[str, float]]
    restarts: int


def lr_at(
    iteration: int, epoch: int, *, lr: float, warmup_iters: int, decay_epochs: list[int], decay_factor: float
) -> float:
    """Learning rate of an iteration, both counted from 0 (METHOD: data and optimisation).

    Times `decay_factor` at the start of each decay epoch; up to and including iteration `warmup_iters` times
    iteration / warmup_iters. The release divides by zero without warm-up and loses a decay inside it; this does not.
    """
    rate = lr
    for start in decay_epochs:
        if epoch >= start:
            rate *= decay_factor
    return rate * iteration / warmup_iters if iteration < warmup_iters else rate


def iterations_per_epoch(train: Train, n_images: int, labelled: bool) -> int:
    """One pass of the labelled stream, or of the plain stream for a data set without labels; partial batch dropped."""
    batch_size = train.label_batch_size if labelled else train.batch_size
    if n_images < max(batch_size, train.batch_size):
        raise DataError(f"the training set has {n_images} images, fewer than a batch; lower train.label_batch_size")
    return n_images // batch_size


def make_optimiser(model: EnergyModel, train: Train) -> torch.optim.Optimizer:
    """SGD with momentum, or Adam(0.9, 0.999). A parameter without a gradient is left alone, weight decay included."""
    options = {"weight_decay": train.weight_decay, "fused": True}
    if train.optimiser == "adam":
        return torch.optim.Adam(model.parameters(), train.lr, betas=(0.9, 0.999), **options)
    return torch.optim.SGD(model.parameters(), train.lr, train.momentum, **options)


def forward_passes(
    model: EnergyModel,
    x_pos: Tensor | None,
    x_init: Tensor | None,
    labelled: tuple[Tensor, Tensor] | None,
    train: Train,
    noise: torch.Generator | None = None,
) -> tuple[dict[str, Tensor], Tensor | None]:
    """One iteration's passes: the objective's terms by name, with their weighted sum as `loss`, and the samples x_neg.

    L = px_weight (gap + l2_coeff l2) + pyx_weight cross-entropy (METHOD: loss). The release only switches the
    cross-entropy by its weight; with weights 0 and 1 that is the same. A weight of 0 skips its passes.

    x_pos, x_init: data and chain starts, [B, C, H, W]; labelled: images [A, C, H, W] and labels [A]. Passes run in
    the order x_pos, SGLD from x_init, x_neg, labelled, each of its own, because BatchNorm normalises each batch by its
    own statistics and updates its running averages in that order.
    """

    def autocast() -> torch.autocast:
        # One context a pass: autocast caches cast weights, and those cast while frozen would carry no gradient.
        device = next(model.parameters()).device.type
        return torch.autocast(device, torch.bfloat16, enabled=train.precision == "bf16")

    terms: dict[str, Tensor] = {}
    x_neg, loss = None, 0.0
    if train.px_weight:
        with autocast():
            terms["energy_pos"] = model.energy(x_pos)
        with model.frozen_weights(), autocast():
            x_neg, terms["grad_norm"] = sgld(
                model.energy, x_init, train.n_steps, train.step_size, train.noise_std, train.grad_bound, noise
            )
        with autocast():
            terms["energy_neg"] = model.energy(x_neg)
        terms |= generative_terms(terms["energy_pos"], terms["energy_neg"], train.l2_coeff)
        loss = train.px_weight * terms["loss_px"]
    if train.pyx_weight:
        x_lab, labels = labelled
        with autocast():
            terms["cross_entropy"] = classification_term(model.logits(x_lab), labels)
        loss = loss + train.pyx_weight * terms["cross_entropy"]
    terms["loss"] = loss
    return terms, x_neg


class Training:
    """A run in progress: everything that its next iteration depends on, and that iteration.

    data: images as bytes, moved to `device` once; init: where chains start. Raises DataError where labels are needed
    and missing.
    """

    def __init__(self, train: Train, data: ImageSet, init: GaussianInit | UniformInit, device: torch.device):
        if train.pyx_weight and data.labels is None:
            raise DataError("the data set has no labels, so train.pyx_weight must be 0")
        self.train, self.data, self.init, self.device = train, data.to(device), init.to(device), device
        with self._own_random_state():
            torch.manual_seed(generator_for("weights", train.seed).initial_seed())
            architecture = {key: getattr(train, key) for key in ARCHITECTURE}
            self.model = build_model(data.shape, data.n_classes, **architecture)
        self.model.to(device).train()
        if train.sync_batchnorm and parallel.world() > 1 and device.type == "cuda":
            self.model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(self.model)
        if train.compile:
            self.model.backbone.compile()
        self.optimiser = make_optimiser(self.model, train)
        if train.kernels == "native":
            if device.type != "cpu":
                raise ParamsError("train.kernels is native, which runs on a CPU only; set it to torch, or use a CPU")
            use_native(self.model, self.optimiser)
        self.batch_size = parallel.share(train.batch_size, "train.batch_size")
        parallel.share(train.label_batch_size, "train.label_batch_size")
        parallel.share(train.buffer_size, "train.buffer_size")
        self.generators = self._generators()
        first = generator_for(
            "initial draws", train.seed, device
        )  # all ranks know the whole buffer, and keep their part
        self.buffer = ReplayBuffer(parallel.shard_of(self.init.sample(train.buffer_size, first)).clone())
        if parallel.world() == 1:
            self.generators["initial draws"] = first
        self.plain = BatchStream(len(data), train.batch_size, generator_for("plain batches", train.seed), device)
        self.labelled = BatchStream(
            len(data), train.label_batch_size, generator_for("labelled batches", train.seed), device
        )
        self.per_epoch = iterations_per_epoch(train, len(data), data.labels is not None)
        self.total = self.per_epoch * train.epochs
        self.iteration = 0  # the next one
        self.rows: list[dict[str, float]] = []
        self.epochs: list[dict[str, float]] = []
        self.restarts = 0
        self._sums = torch.zeros(len(RECORDED), device=device)
        self._interval = 0
        self._x_neg: Tensor | None = None
        self._watch = _Watch(device)

    @property
    def epoch(self) -> int:
        """Epoch of the next iteration, from 0."""
        return self.iteration // self.per_epoch

    def step(self) -> None:
        """One iteration. Raises Diverged as METHOD defines it, on a GPU at most one iteration later."""
        train = self.train
        rate = train.restart_lr_factor**self.restarts * lr_at(
            self.iteration,
            self.epoch,
            lr=train.lr,
            warmup_iters=train.warmup_iters,
            decay_epochs=train.decay_epochs,
            decay_factor=train.decay_factor,
        )

        # --- draw
        x_pos = x_init = labelled = None
        if train.px_weight:
            x_pos = bytes_to_unit(self.data.images[parallel.mine(self.plain.next())])
            indices, x_init = self.buffer.draw(
                self.batch_size,
                train.reinit_freq,
                lambda n: self.init.sample(n, self.generators["initial draws"]),
                self.generators["chains"],
            )
        if train.pyx_weight:
            picked = parallel.mine(self.labelled.next())
            crop = self.generators["augmentation"]
            views = augment(self.data.images[picked], train.augment_pad, train.augment_flip, crop)
            labelled = bytes_to_unit(views), self.data.labels[picked]

        # --- sample, loss
        with self._dropout():
            terms, x_neg = forward_passes(self.model, x_pos, x_init, labelled, train, self.generators["sgld noise"])
        if x_neg is not None:
            self.buffer.write(indices, x_neg)

        # --- step
        self.optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        terms["weight_grad_norm"] = self._gradient_norm(terms["loss"])
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.step()

        # --- record
        zero = torch.zeros((), device=self.device)
        values = torch.stack([terms.get(key, zero).detach().float().mean() for key in RECORDED])
        self._sums += values
        self._x_neg = x_neg
        self._interval += 1
        self.iteration += 1
        last = self.iteration == self.total
        finite_samples = zero if x_neg is None else 0 * x_neg.sum()
        self._watch.look(self.iteration - 1, torch.cat([values, finite_samples[None]]))
        if self._interval == train.log_every or last:
            self._watch.finish()
            row = {"iteration": self.iteration - 1, "epoch": (self.iteration - 1) // self.per_epoch, "lr": rate}
            means = parallel.mean_over_ranks(self._sums / self._interval)
            row |= dict(zip(RECORDED, means.tolist(), strict=True))
            row |= {"x_neg_min": float(x_neg.min()), "x_neg_max": float(x_neg.max())} if x_neg is not None else {}
            self.rows.append(row)
            self._sums.zero_()
            self._interval = 0

    def evaluate(self, test: ImageSet | None, batch_size: int) -> None:
        """Note the classifier's accuracy and loss on held-out images, running statistics; changes no later number."""
        row = {"epoch": self.epoch, "iteration": self.iteration}
        if self.train.pyx_weight and test is not None and len(test):
            self.model.eval()
            try:
                logits = score(self.model, test.images, batch_size).logits
                row["accuracy"], row["loss"] = accuracy_and_loss(logits, test.labels)
            except MetricError:  # not finite with running statistics: no figure, and training goes on
                pass
            finally:
                self.model.train()
        self.epochs.append(row)

    def _generators(self, since: int = 0) -> dict[str, torch.Generator]:
        """A generator for each purpose and rank; anew for a run that goes on with other ranks or on another device."""
        of = f", rank {parallel.rank()} of {parallel.world()}" if parallel.world() > 1 else ""
        of += f", from iteration {since}" if since else ""
        seed = self.train.seed
        return {
            "initial draws": generator_for(f"initial draws{of}", seed, self.device),
            "sgld noise": generator_for(f"sgld noise{of}", seed, self.device),
            "chains": generator_for(f"chains{of}", seed),
            "augmentation": generator_for(f"augmentation{of}", seed),
            "dropout": generator_for(f"dropout{of}", seed),
        }

    def _gradient_norm(self, loss: Tensor) -> Tensor:
        """Norm of the gradients, averaged over ranks first; infinite for all where any rank's loss is out of bounds."""
        parameters = list(self.model.parameters())
        bad = ~(loss.detach().abs() <= LOSS_LIMIT)
        n_bad = parallel.average_gradients(parameters, bad) if parallel.world() > 1 else None
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        return norm if n_bad is None else torch.where(n_bad > 0, torch.inf, norm)

    def state(self) -> dict:
        """Everything that the next iteration depends on, as plain values and tensors on the CPU, of all ranks."""
        self._watch.finish()
        return {
            "world": parallel.world(),
            "device": self.device.type,
            "iteration": self.iteration,
            "model": _copied(self.model.state_dict()),
            "optimiser": _copied(self.optimiser.state_dict()),
            "buffer": parallel.gathered(self.buffer.images),
            "streams": {"plain": self.plain.state(), "labelled": self.labelled.state()},
            "generators": parallel.of_all_ranks({name: g.get_state() for name, g in self.generators.items()}),
            "rows": [dict(row) for row in self.rows],
            "epochs": [dict(row) for row in self.epochs],
            "restarts": self.restarts,
            "sums": parallel.of_all_ranks(self._sums.cpu().clone()),
            "interval": self._interval,
        }

    def load(self, record: dict) -> None:
        """Go on from a state."""
        self.iteration = record["iteration"]
        self.model.load_state_dict(record["model"])
        self.optimiser.load_state_dict(record["optimiser"])
        self.buffer.images.copy_(parallel.shard_of(record["buffer"]))
        self.plain.load(record["streams"]["plain"])
        self.labelled.load(record["streams"]["labelled"])
        self.restarts = record["restarts"]
        self._interval = record["interval"]
        if (record["world"], record["device"]) == (parallel.world(), self.device.type):
            for name, generator in self.generators.items():
                generator.set_state(record["generators"][parallel.rank()][name])
            self._sums.copy_(record["sums"][parallel.rank()])
        else:  # other shards or another kind of generator, so other chains; the data streams go on where they were
            self.generators = self._generators(since=self.iteration)
            self._sums.copy_(torch.stack(record["sums"]).mean(0).to(self.device))
        self.rows = [dict(row) for row in record["rows"]]
        self.epochs = [dict(row) for row in record["epochs"]]
        self._watch = _Watch(self.device)

    def reseed_chains(self) -> None:
        """Count one more restart: other chains from here on, and a lower learning rate."""
        self.restarts += 1
        for name in ("initial draws", "sgld noise", "chains"):
            generator = self.generators[name]
            purpose = f"{name}, restart {self.restarts}, rank {parallel.rank()}"
            fresh = generator_for(purpose, self.train.seed, generator.device)
            generator.set_state(fresh.get_state())

    def check(self) -> None:
        """Raises Diverged for an iteration that a GPU has not been waited for yet."""
        self._watch.finish()

    def finish(self) -> Trained:
        """What the run leaves. Raises Diverged if its last iteration did."""
        self._watch.finish()
        buffer = ReplayBuffer(parallel.gathered(self.buffer.images)) if parallel.world() > 1 else self.buffer
        return Trained(self.model, buffer, self.total, self.rows, self.epochs, self.restarts)

    def _own_random_state(self):
        return torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else [])

    @contextmanager
    def _dropout(self) -> Iterator[None]:
        """Dropout draws from the global generator, so for each iteration that is seeded from our own."""
        if not self.train.dropout:
            yield
            return
        with self._own_random_state():
            torch.manual_seed(int(torch.randint(2**62, (), generator=self.generators["dropout"])))
            yield


class _Watch:
    """Looks for divergence in every iteration's numbers without making a GPU wait: those are read one later."""

    def __init__(self, device: torch.device):
        self._device, self._pending = device, None

    def look(self, iteration: int, values: Tensor) -> None:
        previous = self._pending
        host = values.to("cpu", non_blocking=True)
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record()
        self._pending = (iteration, host, ready)
        if self._device.type == "cuda":
            self._check(previous)
        else:
            self.finish()

    def finish(self) -> None:
        """Check what has not been checked yet."""
        pending, self._pending = self._pending, None
        self._check(pending)

    def _check(self, pending: tuple | None) -> None:
        if pending is None:
            return
        iteration, host, ready = pending
        if ready is not None:
            ready.synchronize()
        values = dict(zip(RECORDED, host.tolist(), strict=False))
        if bool(torch.isfinite(host).all()) and abs(values["loss"]) <= LOSS_LIMIT:
            return
        self._pending = None
        raise Diverged(
            f"training diverged in iteration {iteration}: loss {values['loss']:.4g}, energies "
            f"{values['energy_pos']:.4g} (data) and {values['energy_neg']:.4g} (samples), gradient norms "
            f"{values['grad_norm']:.4g} (images) and {values['weight_grad_norm']:.4g} (weights); lower train.lr, raise "
            "train.l2_coeff, change train.seed, or set train.on_divergence to restart",
            iteration,
            values,
        )


def _copied(value):
    """A copy on the CPU of the tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value


def unusual(rows: list[dict[str, float]]) -> str:
    """A warning where the last row's energy gap or gradient norms are far outside those of the 50 rows before.

    Far: more than ten times the median absolute deviation from their median, and than a tenth of the median. Empty
    where all is usual, or where there are fewer than 20 rows to compare with.
    """
    *before, row = rows[-51:] if rows else [{}]
    if len(before) < 20:
        return ""
    for key in ("energy_gap", "grad_norm", "weight_grad_norm"):
        values = torch.tensor([earlier[key] for earlier in before], dtype=torch.float64)
        middle = float(values.median())
        spread = float((values - middle).abs().median())
        if abs(row[key] - middle) > 10 * spread + 0.1 * abs(middle):
            return f"{key} is {row[key]:.4g} in iteration {row['iteration']}, usually {middle:.4g} ± {spread:.2g}"
    return ""


def train_model(
    train: Train,
    data: ImageSet,
    init: GaussianInit | UniformInit,
    device: torch.device,
    *,
    test: ImageSet | None = None,
    eval_batch_size: int = 500,
    on_log: Callable[[Training], None] = lambda _: None,
    on_look: Callable[[Training], None] = lambda _: None,
    on_divergence: Callable[[Diverged, Training], None] = lambda *_: None,
    say: Callable[[str], None] = lambda _: None,
    states: StateStore | None = None,
    save_every: int = 500,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train on `data` with chains started from `init`, from the newest of `states` if there is one.

    test: held-out images for the classifier's accuracy at every look. on_log: called after every `log_every`
    iterations; on_look: before the first, at the end of every `grid_every` epochs and of the last; on_divergence:
    before a divergence is acted upon. save_every: iterations between saved states. stop: asked before every
    iteration; when it says so the state is saved and Stopped raised. Raises Diverged at a divergence, or after
    `max_restarts` of them with on_divergence "restart". An interrupted run that goes on ends in the same numbers as one
    that was not.
    """
    run = Training(train, data, init, device)
    check = 1 if parallel.world() == 1 else train.log_every  # asking all ranks takes a message
    record = states.newest() if states else None
    if record is not None:
        run.load(record)
        say(f"goes on from iteration {run.iteration} of {run.total}")
    while True:
        try:
            if run.iteration == 0:
                on_look(run)
            while run.iteration < run.total:
                if run.iteration % check == 0 and parallel.any_rank(stop()):
                    if states:
                        _save(states, run, stopped=True)
                    raise Stopped(f"stopped before iteration {run.iteration} of {run.total}, with its state saved")
                run.step()
                last = run.iteration == run.total
                if run.rows and run.rows[-1]["iteration"] == run.iteration - 1:
                    on_log(run)
                    if warning := unusual(run.rows):
                        say(f"warning: {warning}")
                if run.iteration % run.per_epoch == 0 and (run.epoch % train.grid_every == 0 or last):
                    run.check()
                    if parallel.rank() == 0:
                        run.evaluate(test, eval_batch_size)
                    on_look(run)
                if states and run.iteration % save_every == 0 and not last:
                    _save(states, run)
            if states:
                states.wait()
            return run.finish()
        except Diverged as error:
            on_divergence(error, run)
            restarts = run.restarts
            if train.on_divergence == "stop" or restarts >= train.max_restarts:
                raise
            if states:
                states.wait()
            parallel.any_rank(False)  # none looks for a state before the last one is on disk
            record = states.back(drop=parallel.rank() == 0) if states else None
            run = Training(train, data, init, device)
            if record is not None:
                run.load(record)
            while run.restarts <= restarts:
                run.reseed_chains()
            say(f"{error}; restart {run.restarts} of {train.max_restarts} from iteration {run.iteration}")
            if states:
                _save(states, run)


def _save(states: StateStore, run: Training, stopped: bool = False) -> None:
    """All ranks give their part of the state; the first one writes it, beside training unless that stops here."""
    record = run.state()
    if parallel.rank() == 0 and stopped:
        states.wait()
        states.save(record, run.iteration, stopped)
    elif parallel.rank() == 0:
        states.save_behind(record, run.iteration)
