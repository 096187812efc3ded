"""What would fail late, refused before anything is downloaded or removed.

That is training which would take too long on this CPU, and a checkpoint that cannot be imported. Only jobs count that
were asked for and that DVC's cache does not have: a table without training is never refused.
"""

import contextlib
import io
import sys
from collections.abc import Iterable
from pathlib import Path

from mebm import sources
from mebm.engine.graph import Graph
from mebm.engine.plan import Plan, make_plan
from mebm.errors import CheckpointError, DataError, ParamsError
from mebm.settings import checks
from mebm.settings.suite import Params


def refuse_what_was_asked(settings: Params) -> None:
    """Refuse what a `dvc repro` above this process asked for, before it works.

    Does nothing under another parent: Snakemake asks for itself, and a stage's own command checks its own run. Raises
    ParamsError as `check_cost` does, and CheckpointError as `check_imports`.
    """
    targets = _asked_of_dvc()
    limited = any(settings.resolve("train", run).compute.cpu_hours is not None for run in settings.trained)
    if targets is None or not (limited or settings.imported):
        return
    graph = Graph("dvc.yaml", settings)
    plan = make_plan(graph, settings, settings.path.read_text(encoding="utf-8"))
    check_imports(settings, stale_runs(graph, plan, "import_checkpoint", targets))
    runs = stale_runs(graph, plan, "train", targets)
    if limited and runs:
        check_cost(settings, runs, Path("data"))


def stale_runs(graph: Graph, plan: Plan, stage: str, targets: Iterable[str]) -> list[str]:
    """Runs that a stage must make for the targets, because DVC's cache does not have them."""
    needed = graph.needed(targets)
    jobs = (job for job in graph.of(stage) if job.address in needed and job.address not in plan.cached)
    return [job.name for job in jobs if job.address in plan.stale]


def _asked_of_dvc() -> list[str] | None:
    """Targets of the `dvc repro` or `dvc exp run` that started this process; None where none did."""
    import psutil

    for process in psutil.Process().parents():
        words = process.cmdline()
        at = next((n for n, word in enumerate(words[:3]) if Path(word).name == "dvc"), None)
        if at is None:
            continue
        from dvc.cli import parse_args

        try:
            with contextlib.redirect_stderr(io.StringIO()):
                asked = parse_args(words[at + 1 :])
        except Exception:  # DVC has read these words, so they are of another command than is looked for
            return None
        if asked.cmd not in ("repro", "exp", "experiments") or "targets" not in asked:
            return None
        targets = [target.rpartition("dvc.yaml:")[2] for target in asked.targets]
        wide = any(getattr(asked, name, False) for name in ("recursive", "glob", "downstream", "all_pipelines"))
        everything = wide or any(target.endswith("dvc.yaml") for target in targets)
        return [] if everything else targets
    return None


def check_imports(settings: Params, runs: Iterable[str]) -> None:
    """Read the checkpoints of imported runs, as far as the data set's shape and classes are known before it is read.

    Those that a training of the suite makes are read when they are made. Raises CheckpointError, by the run's key, for
    one that is missing, that is neither of the public release nor of this project, or that does not fit the run's
    settings.
    """
    for name in runs:
        from mebm.training import choice
        from mebm.training.reading import read_any

        run, wanted = settings.imported[name], settings.resolve("import_checkpoint", name)
        if run.made_from is not None:
            continue
        known = checks.size(settings.resolve("dataset", run.dataset).dataset)
        shape = known.channels, known.side, known.side
        try:
            read_any(choice.one_of(run.checkpoint, wanted.weights), wanted.train, shape, known.classes)
        except (CheckpointError, DataError) as error:
            raise CheckpointError(f"imported.{name}.checkpoint: {error}") from error


def check_cost(settings: Params, runs: Iterable[str], data: Path, card: str | None = None) -> None:
    """Print what training the runs costs, on this machine or on a card that was measured (mebm/training/cost.py).

    Raises ParamsError for those that would take too long on this CPU.
    """
    from mebm.training.cost import Rates, estimate
    from mebm.training.devices import device_for

    rates = Rates()
    refused: dict[str, str] = {}  # their limits, by run
    total, count, unknown = 0.0, 0, 0
    print(f"{'run':28} {'images':>10} {'iterations':>10} {'EFLOP':>9} {'hours':>10}   on: by", file=sys.stderr)
    for name in runs:
        job = settings.resolve("train", name)
        shape, n_images, labelled = size(settings, settings.trained[name].dataset, data)
        device = card or device_for(job.compute)
        count += 1
        if n_images is None:
            print(f"{name:28} {'unknown until the data set is prepared':>40}", file=sys.stderr)
            continue
        n_images -= job.train.validation_images
        found = estimate(job.train, shape, n_images, labelled, device, rates)
        cost, hours = found.cost, found.hours
        values = f"{n_images:10,} {cost.iterations:10,} {cost.flops / 1e18:9.3g}"
        print(
            f"{name:28} {values} {'' if hours is None else f'{hours:,.2f}':>10}   {device}: {found.basis}",
            file=sys.stderr,
        )
        unknown += hours is None
        total += hours or 0.0
        on_cpu, limit = card is None and device.type == "cpu", job.compute.cpu_hours
        if on_cpu and limit is not None and hours > limit:
            refused[name] = f"{limit:g}"
    rest = f", without {unknown} that nobody measured" if unknown else ""
    about = f"about {total:,.2f} hours one after the other{rest}" if unknown < count else f"not measured on an {card}"
    print(f"{count} runs, {about}", file=sys.stderr)
    if refused:
        more = f" and {len(refused) - 3} more" if len(refused) > 3 else ""
        limits = " or ".join(sorted(set(refused.values())))
        raise ParamsError(
            f"{', '.join(list(refused)[:3])}{more}: more than compute.cpu_hours ({limits}) on this CPU; "
            "use a GPU, or set compute.cpu_hours to null to train here all the same"
        )


def size(settings: Params, dataset: str, data: Path) -> tuple[tuple[int, int, int], int | None, bool]:
    """(C, H, W), number of training images, and whether they have labels: of the prepared set, or as published."""
    from mebm.data.archives import Manifest
    from mebm.files import read_json

    manifest = data / dataset / "manifest.json"
    if manifest.is_file():
        record = read_json(manifest, Manifest)
        return tuple(record["shape"]), record["counts"]["train"], record["labels"] is not None
    wanted = settings.resolve("dataset", dataset).dataset
    known = checks.size(wanted)
    train, about = known.train, sources.about(wanted.source)
    if train is not None and about.can_have_test and not about.counts:  # a folder, most of which have no test part
        train -= wanted.n_test
    return (known.channels, known.side, known.side), train, known.classes != 0
