"""Train a run: checkpoint.pt, log.csv with the curves, and snapshots every few epochs.

A snapshot is a row of epochs.csv with the held-out accuracy, and a copy of some chains in snapshots/; with
train.keep_every some have a whole checkpoint beside it. cost.json holds iterations, floating-point operations and
hours; provenance.json says where and with which versions training ran.

State is saved under .state/ meanwhile. After any interruption run the same command again: it resumes from there and
ends in the same numbers. SIGTERM and SIGINT save the state first.
"""

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from mebm.data.archives import save_images
from mebm.data.images import ImageSet, check_labels, load_images, unit_to_bytes
from mebm.data.validation import validation_split
from mebm.engine import code
from mebm.engine.outputs import outputs_unlocked
from mebm.epochs import kept_epochs, look_epochs
from mebm.errors import CheckpointError, DataError, Diverged, ParamsError
from mebm.files import read_json, replacing, sha256, write_json, write_text
from mebm.method.gaussian import load_init
from mebm.settings.schema import Train
from mebm.settings.stages import TrainSettings
from mebm.training import parallel
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mebm.training.cost import estimate
from mebm.training.devices import claim
from mebm.training.loop import Trained, train_model
from mebm.training.operations import Cost
from mebm.training.records import EPOCH_COLUMNS, LOG_COLUMNS, VALIDATION_COLUMNS
from mebm.training.run import Run
from mebm.training.state import StateStore, run_key
from mebm.training.trackers import Trackers, Watched, tracking
from stages import cli
from stages.looks import save_chains


def main(argv: list[str] | None = None) -> int:
    parser = cli.parser("train", __doc__)
    parser.add_argument("--train", type=Path, required=True, help="archive of training images")
    parser.add_argument("--test", type=Path, help="archive of held-out images, for the accuracy during training")
    parser.add_argument("--gaussian", type=Path, required=True, help="statistics of the initial distribution")
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--restart", action="store_true", help="drop the saved state and start over")
    return cli.execute(parser, argv, work, makes)


def makes(settings: TrainSettings) -> list[str]:
    """Files of the outputs, by which a command run by hand knows its own."""
    train = settings.train
    files = ["checkpoint.pt", "provenance.json", "cost.json", "log.csv", "epochs.csv"]
    files += [f"snapshots/epoch_{epoch:04d}.npz" for epoch in look_epochs(train)]
    return [*files, *(f"snapshots/epoch_{epoch:04d}.pt" for epoch in kept_epochs(train))]


def work(args, settings: TrainSettings) -> None:
    name, compute = settings.name, settings.compute
    if parallel.launched():  # one of the processes that _launch started
        device = cli.device_for(compute, os.environ["LOCAL_RANK"])
        with parallel.joined(device):
            _train(args, settings, device, os.environ.get("CUDA_VISIBLE_DEVICES"))
        return
    claimed = claim(compute.device, cli.log.info, compute.devices)
    if compute.devices > 1:
        cli.log.info("%s: %d processes%s", name, compute.devices, f" on GPUs {claimed}" if claimed else "")
        _launch(args, compute.devices)
    _train(args, settings, cli.device_for(compute, claimed), claimed)


def _launch(args, processes: int) -> None:
    """Give this process's place to torchrun, which starts this command once for each process."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    options = {"run": args.name, "train": args.train, "gaussian": args.gaussian, "out": args.out}
    options |= {"test": args.test} if args.test else {}
    options |= {"params": args.params, "logs": args.logs, "state": args.state}
    own = [word for key, value in options.items() for word in (f"--{key}", str(value))]
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # torchrun would set it with a warning; cpu_threads decides
    os.execv(sys.executable, [*command, "-m", "--", "stages.train", *own, *(["--restart"] if args.restart else [])])


def _train(args, settings: TrainSettings, device, claimed: str | None) -> None:
    name, train, compute = settings.name, settings.train, settings.compute
    first = parallel.rank() == 0
    data, validation = validation_split(load_images(args.train), train.validation_images)
    test = load_images(args.test, data.shape, allow_empty=True) if args.test else None
    if test is not None and len(test) and train.pyx_weight:
        check_labels(test, data.n_classes)
    init = load_init(train.init, args.gaussian, data.shape)
    cost = _check_cost(settings, data, device, claimed)

    inputs = {"train": sha256(args.train), "gaussian": sha256(args.gaussian)}
    inputs |= {"test": sha256(args.test)} if args.test else {}
    inputs |= {"states": code.fingerprint(code.ROOT, "mebm/training/state.py")}  # how they are written and read
    # Where it is computed is no part of the key: on another device, or on more of them, the run goes on.
    store = StateStore(args.state / name / run_key(args.record(), inputs), cli.log.info)
    watched = Watched(name, store.folder.name, train.model_dump(), args.logs)
    told = tracking(compute.trackers if first else [], watched, lambda line: cli.log.info("%s: %s", name, line))
    with store.locked() if first else nullcontext(), _asked_to_stop() as stop, told as trackers:
        if first and args.restart:
            store.clear()
        if first:
            (store.folder / "finished").unlink(missing_ok=True)
        parallel.any_rank(False)  # none reads the states before the first has looked after them
        record = _Record(args, settings, store.folder, data, trackers)
        calls = {"on_log": record.log, "on_look": record.look, "on_keep": record.keep} if first else {}
        calls |= {"on_divergence": record.divergence} if first else {}
        with outputs_unlocked(args.out) if first else nullcontext(), record.saying_what_is_left():
            trained = train_model(
                train,
                data,
                init,
                device,
                test=test,
                validation=validation,
                eval_batch_size=compute.eval_batch_size,
                **calls,
                say=lambda line: cli.log.info("%s: %s", name, line),
                states=store,
                save_every=compute.save_every,
                stop=stop,
            )
        if not first:
            return
        record.write(trained, cost)
        save_checkpoint(args.out / "checkpoint.pt", _checkpoint(trained, train, data))
        where = cli.provenance() | {"devices": compute.devices, "execution": trained.execution, **cli.packages()}
        if validation is not None:
            where |= {"training_images": len(data), "validation_images": len(validation)}
        write_json(args.out / "provenance.json", where)
        if trained.preparation:
            share = 100 * trained.preparation / (3600 * record.hours())
            message = "%s: %s took %.0f s before its first iteration, %.1f %% of the run"
            cli.log.info(message, name, trained.execution, trained.preparation, share)
        # What is left goes when the next stage starts: until then, no result is recorded anywhere.
        (store.folder / "finished").touch()


def _checkpoint(trained: Trained, train: Train, data: ImageSet) -> Checkpoint:
    return Checkpoint(
        trained.model,
        trained.buffer.images,
        train.model_dump(),
        data.shape,
        data.n_classes,
        trained.iterations,
        trained.restarts,
        trained.averages,
    )


class _Record:
    """Curves and chains of a run: live beside the logs, the state and in trackers, at the end among the outputs."""

    def __init__(self, args, settings: TrainSettings, folder: Path, data: ImageSet, trackers: Trackers):
        name = settings.name
        self._args, self._name, self._folder, self._trackers = args, name, folder, trackers
        self._train, self._data, self._left = settings.train, data, ""
        self._live, self._written = args.logs / f"train.{name}.csv", -1
        self._show = cli.progress(name)
        self._before = _seconds_before(folder / "seconds.json")
        self._start = time.monotonic()

    def log(self, run: Run) -> None:
        rows = run.rows
        if self._written != len(rows) - 1:  # the first time, after a resumption or a restart
            write_text(self._live, _csv(rows))
        else:
            with open(self._live, "a", encoding="utf-8") as file:
                file.write("".join(_csv(rows[-1:]).splitlines(keepends=True)[1:]))
        self._written = len(rows)
        write_json(self._folder / "seconds.json", {"seconds": self._seconds()})
        self._trackers.log(rows[-1])
        self._show(run.iteration, run.total, f"energy gap {rows[-1]['energy_gap']:+.3f}")

    def look(self, run: Run) -> None:
        images = unit_to_bytes(run.buffer.images[: run.train.snapshot_images].cpu())
        save_images(self._folder / "snapshots" / f"epoch_{run.epoch:04d}.npz", images.numpy())
        save_chains(self._live.with_suffix(".png"), run.buffer.images)
        row = run.log.epochs[-1] if run.log.epochs else {"epoch": run.epoch, "iteration": run.iteration}
        self._trackers.look(row, self._live.with_suffix(".png"))

    def keep(self, trained: Trained, epoch: int) -> None:
        save_checkpoint(self._kept(epoch), _checkpoint(trained, self._train, self._data))

    def _kept(self, epoch: int) -> Path:
        return self._folder / "snapshots" / f"epoch_{epoch:04d}.pt"

    @contextmanager
    def saying_what_is_left(self) -> Iterator[None]:
        """A divergence that ends training also says where the last weights before it are kept."""
        try:
            yield
        except Diverged as error:
            raise Diverged(f"{error}{self._left}", error.iteration, error.values) from error

    def divergence(self, error: Diverged, run: Run) -> None:
        good = [epoch for epoch in kept_epochs(self._train) if epoch <= run.epoch and self._kept(epoch).is_file()]
        if good:
            self._left = (
                f"; {self._kept(good[-1])} holds the weights after {good[-1]} epochs (docs/runs.md, Divergence)"
            )
        values = {key: repr(value) for key, value in error.values.items()}  # JSON has no NaN
        stem = self._args.logs / f"diverged.{self._name}"
        write_json(stem.with_name(stem.name + ".json"), {"iteration": error.iteration, **values})
        save_chains(stem.with_name(stem.name + ".png"), run.buffer.images)
        cli.log.info("%s: %s.json and .png show where", self._name, stem)

    def write(self, trained: Trained, cost: Cost) -> None:
        out = self._args.out
        write_text(out / "log.csv", _csv(trained.rows))
        more = VALIDATION_COLUMNS if self._train.validation_images else ()
        write_text(out / "epochs.csv", _csv(trained.epochs, (*EPOCH_COLUMNS, *more)))
        (out / "snapshots").mkdir(parents=True, exist_ok=True)
        for path in sorted((self._folder / "snapshots").glob("epoch_*")):
            try:
                load_images(path) if path.suffix == ".npz" else load_checkpoint(path)
            except (DataError, CheckpointError):  # no training number depends on it
                cli.log.info("%s: warning: %s is damaged and left out", self._name, path)
                continue
            with replacing(out / "snapshots" / path.name) as temporary:
                shutil.copyfile(path, temporary)
        # In a file of its own: hours are never the same twice, unlike everything else that one machine makes.
        spent = {"iterations": cost.iterations, "flops": cost.flops, "hours": self.hours()}
        write_json(out / "cost.json", spent)

    def hours(self) -> float:
        """Of the run so far, those before an interruption included."""
        return self._seconds() / 3600

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._start


def _seconds_before(path: Path) -> float:
    """Seconds that a run took before it was interrupted; 0 where they are not known."""
    try:
        return float(read_json(path)["seconds"]) if path.is_file() else 0.0
    except (DataError, KeyError, TypeError, ValueError):
        return 0.0


def _csv(rows: list[dict], columns: tuple[str, ...] = LOG_COLUMNS) -> str:
    lines = [",".join(f"{row[key]:.6g}" if key in row else "" for key in columns) for row in rows]
    return "".join(f"{line}\n" for line in [",".join(columns), *lines])


def _check_cost(settings: TrainSettings, data, device, claimed: str | None) -> Cost:
    """Say what training will cost, and refuse it on a CPU beyond compute.cpu_hours. Returns its arithmetic."""
    found = estimate(settings.train, data.shape, len(data), data.labels is not None, device)
    cost, hours = found.cost, found.hours / parallel.world()
    on = f"{device}" + (f" (GPU {claimed})" if claimed else "")
    message = "%s: %d iterations, %.3g PFLOP, about %.2g hours on %s (%s)"
    cli.log.info(message, settings.name, cost.iterations, cost.flops / 1e15, hours, on, found.basis)
    limit = settings.compute.cpu_hours
    if device.type == "cpu" and limit is not None and hours > limit:
        raise ParamsError(
            f"{settings.name}: training would take about {hours:.3g} hours on this CPU, more than compute.cpu_hours "
            f"({limit:g}); use a GPU, or set compute.cpu_hours to null to train here all the same"
        )
    return cost


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], bool]]:
    """A question whether SIGTERM or SIGINT came; a second one ends the process as usual."""
    asked = False

    def handler(number: int, _) -> None:
        nonlocal asked
        asked = True
        signal.signal(number, signal.SIG_DFL)
        cli.log.info("%s: saving before the next iteration", signal.Signals(number).name)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: asked
    finally:
        for number, old in before.items():
            signal.signal(number, old)


if __name__ == "__main__":
    sys.exit(main())
