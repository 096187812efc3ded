"""A training in progress: how it is built, and everything that its next iteration depends on, saved and restored."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mebm.data.batches import BatchStream
from mebm.data.images import ImageSet
from mebm.errors import DataError
from mebm.method.algorithms import algorithm
from mebm.method.buffer import ReplayBuffer
from mebm.method.energy import ARCHITECTURE, EnergyModel, build_model
from mebm.method.gaussian import Init
from mebm.method.iteration import Choices, Inputs, iterate
from mebm.method.schedule import iterations_per_epoch, make_optimiser
from mebm.seeds import generator_for
from mebm.settings.schema import Train
from mebm.training import parallel
from mebm.training.averages import Averages
from mebm.training.execution import compile_network, launcher, way_of
from mebm.training.paired import pair
from mebm.training.records import Log, Row, recorded, saturated_bytes
from mebm.training.watch import Watch, out_of_bounds

CHAINS = ("initial draws", "sgld noise", "chains")  # purposes of the generators that a restart replaces


class Run:
    """A run before its next iteration, which `mebm.training.loop.step` makes.

    data: images as bytes, moved to `device` once; init: where chains start. Raises DataError where labels are needed
    and missing.
    """

    def __init__(self, train: Train, data: ImageSet, init: Init, device: torch.device):
        if train.pyx_weight and data.labels is None:
            raise DataError("the data set has no labels, so train.pyx_weight must be 0")
        self.train, self.device, self.algorithm = train, device, algorithm(train.algorithm)
        self.per_epoch = iterations_per_epoch(train, len(data), data.labels is not None)
        self.total = self.per_epoch * train.epochs
        self.iteration = 0  # the next one
        self.restarts = 0
        self.way = way_of(train.execution, device)
        self.model = _model(train, data, device)
        if "paired" in self.way:
            self.algorithm = pair(self.algorithm, self.model)
        if "compile" in self.way:
            compile_network(self.model.backbone)
        self.optimiser = make_optimiser(self.model, train)
        self.averages = Averages(self.model, train.ema_decays)
        self.launch = self._launcher()
        self.plain = BatchStream(len(data), train.batch_size, generator_for("plain batches", train.seed), device)
        self.labelled = BatchStream(
            len(data), train.label_batch_size, generator_for("labelled batches", train.seed), device
        )
        self.inputs = self._inputs(data.to(device), init.to(device))
        self.log, self.watch = Log(device, saturated_bytes(data.images)), Watch(device)

    def _inputs(self, data: ImageSet, init: Init) -> Inputs:
        """This process's part of every batch and of the buffer."""
        train = self.train
        for what in ("batch_size", "label_batch_size", "buffer_size"):
            parallel.share(getattr(train, what), f"train.{what}")
        generators = _generators(train.seed, self.device)
        first = generator_for("initial draws", train.seed, self.device)
        whole = init.sample(train.buffer_size, first)  # known to all ranks, of which each keeps its part
        if parallel.world() == 1:
            generators["initial draws"] = first
        return Inputs(
            data,
            lambda: parallel.mine(self.plain.next()),
            lambda: parallel.mine(self.labelled.next()),
            ReplayBuffer(parallel.shard_of(whole).clone()),
            init,
            generators,
        )

    @property
    def epoch(self) -> int:
        """Epoch of the next iteration, from 0."""
        return self.iteration // self.per_epoch

    @property
    def buffer(self) -> ReplayBuffer:
        """This process's chains."""
        return self.inputs.buffer

    @property
    def rows(self) -> list[Row]:
        """Rows of log.csv so far."""
        return self.log.rows

    def _launcher(self) -> Callable[..., tuple[Tensor, Tensor | None]]:
        return launcher(self.device_part, self.way, self._changes)

    def set_rate(self, rate: float) -> None:
        """Set the learning rate of the next iteration, in its fixed place where the optimiser has one."""
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate

    def device_part(self, *choices: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """What the device does in an iteration, whose `Choices` are given one by one: work without a question to it.

        Returns the numbers that are recorded, [8], and the samples x-, if any.
        """
        n_bad = torch.zeros((), device=self.device)

        def averaged(loss: Tensor) -> None:
            """Gradients become their means over all processes, which learn whether the loss of any is too large."""
            if parallel.world() > 1:
                n_bad.add_(parallel.average_gradients(list(self.model.parameters()), out_of_bounds(loss)))

        parts = (self.algorithm, self.train, self.model, self.optimiser, self.inputs)
        terms, x_neg = iterate(*parts, Choices(*choices), averaged)
        if parallel.world() > 1:  # all diverge where one does
            norm = terms.get("weight_grad_norm", torch.zeros((), device=self.device))
            terms["weight_grad_norm"] = torch.where(n_bad > 0, torch.inf, norm)
        return recorded(terms, self.device), x_neg

    def _changes(self) -> dict[str, Tensor]:
        """The tensors that an iteration changes, by name."""
        found = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        for name, weight in self.model.named_parameters():
            found |= {f"optimiser.{key}.{name}": value for key, value in self.optimiser.state[weight].items()}
        found["buffer"] = self.buffer.images
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def state(self) -> dict[str, Any]:
        """Everything that the next iteration depends on, as plain values and tensors on the CPU, of all ranks.

        Raises Diverged if the last iteration did.
        """
        self.watch.finish()
        generators = {name: generator.get_state() for name, generator in self.inputs.generators.items()}
        return {
            "world": parallel.world(),
            "device": self.device.type,
            "iteration": self.iteration,
            "model": _copied(self.model.state_dict()),
            "optimiser": _copied(self.optimiser.state_dict()),
            "averages": self.averages.state(),
            "buffer": parallel.gathered(self.buffer.images),
            "streams": {"plain": self.plain.state(), "labelled": self.labelled.state()},
            "generators": parallel.of_all_ranks(generators),
            "rows": [dict(row) for row in self.log.rows],
            "epochs": [dict(row) for row in self.log.epochs],
            "restarts": self.restarts,
            "sums": parallel.of_all_ranks(self.log.sums.cpu().clone()),
            "interval": self.log.interval,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore everything that the next iteration depends on.

        With another number of processes, or on another kind of device, chains get other random numbers from here on:
        their shards, or the kind of their generators, are not the same. The streams of data go on where they were.
        """
        self.iteration, self.restarts = state["iteration"], state["restarts"]
        self.model.load_state_dict(state["model"])
        rates = [group["lr"] for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, rate in zip(self.optimiser.param_groups, rates, strict=True):
            group["lr"] = rate  # a place of its own on a GPU; every iteration sets it
        self.launch = self._launcher()  # a recording holds the places of the optimiser's tensors before
        self.averages.load(state["averages"])
        self.buffer.images.copy_(parallel.shard_of(state["buffer"]))
        self.plain.load(state["streams"]["plain"])
        self.labelled.load(state["streams"]["labelled"])
        self.log = Log(self.device, saturated_bytes(self.inputs.data.images))
        self.watch = Watch(self.device)
        self.log.rows = [dict(row) for row in state["rows"]]
        self.log.epochs = [dict(row) for row in state["epochs"]]
        self.log.interval = state["interval"]
        if (state["world"], state["device"]) == (parallel.world(), self.device.type):
            for name, generator in self.inputs.generators.items():
                generator.set_state(state["generators"][parallel.rank()][name])
            self.log.sums.copy_(state["sums"][parallel.rank()])
        else:
            self.inputs.generators.update(_generators(self.train.seed, self.device, since=self.iteration))
            self.log.sums.copy_(torch.stack(state["sums"]).mean(0).to(self.device))

    def reseed_chains(self) -> None:
        """Count one more restart: other chains from here on, and a lower learning rate."""
        self.restarts += 1
        for name in CHAINS:
            generator = self.inputs.generators[name]
            purpose = f"{name}, restart {self.restarts}, rank {parallel.rank()}"
            fresh = generator_for(purpose, self.train.seed, generator.device)
            generator.set_state(fresh.get_state())


def _model(train: Train, data: ImageSet, device: torch.device) -> EnergyModel:
    """The network, initialised from the run's seed whatever the global generator is, in training mode."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator_for("weights", train.seed).initial_seed())
        model = build_model(data.shape, data.n_classes, **{key: getattr(train, key) for key in ARCHITECTURE})
    model.to(device).train()
    if train.sync_batchnorm and parallel.world() > 1 and device.type == "cuda":
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model


def _generators(seed: int, device: torch.device, since: int = 0) -> dict[str, torch.Generator]:
    """One generator per purpose and rank; other ones for a run that goes on with other ranks or on another device."""
    of = f", rank {parallel.rank()} of {parallel.world()}" if parallel.world() > 1 else ""
    of += f", from iteration {since}" if since else ""
    places = {"initial draws": device, "sgld noise": device, "chains": "cpu", "augmentation": "cpu", "dropout": "cpu"}
    return {purpose: generator_for(f"{purpose}{of}", seed, place) for purpose, place in places.items()}


def _copied(value: Any) -> Any:
    """A copy on the CPU of the tensors in nested dictionaries and lists."""
    if isinstance(value, Tensor):
        return value.detach().cpu().clone()
    if isinstance(value, dict):
        return {key: _copied(item) for key, item in value.items()}
    return [_copied(item) for item in value] if isinstance(value, list) else value
