"""What every stage's command line shares: arguments, log, progress, and errors that end in one line."""

import argparse
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TypeVar

from mebm.engine import failures, mend, records
from mebm.engine import locks as engine
from mebm.engine.graph import Graph, parts
from mebm.engine.refusal import refuse_what_was_asked
from mebm.engine.strays import remove_strays
from mebm.errors import NO_MEMORY, MebmError, ParamsError, Stopped, clipped, lacks_memory, one_line
from mebm.files import owning, refuse_links
from mebm.settings.editing import changed, comments
from mebm.settings.schema import SECTIONS, Compute
from mebm.settings.stages import (
    ANALYSIS_STAGES,
    COMPARED_STAGES,
    DATASET_STAGES,
    IMPORTED_STAGES,
    RUN_STAGES,
    SUITE_STAGES,
    TABLE_STAGES,
    TRAINED_STAGES,
    Settings,
)
from mebm.settings.suite import Params, load_params
from mebm.terminal import Interrupted
from mebm.training import devices

KINDS = {
    "dataset": DATASET_STAGES | COMPARED_STAGES,
    "run": TRAINED_STAGES | IMPORTED_STAGES | RUN_STAGES | ANALYSIS_STAGES,
    "table": TABLE_STAGES,
    "suite": SUITE_STAGES,
}
AnySettings = TypeVar("AnySettings", bound=Settings)
FIRST = ("dataset", "compared")  # which download
log = logging.getLogger("mebm")
_provenance: dict[str, object] = {}  # of the device that device_for chose


def parser(stage: str, description: str) -> argparse.ArgumentParser:
    """A parser with the name option of the stage (--dataset, --run, --table or --suite), --params and --logs."""
    kind = next(kind for kind, stages in KINDS.items() if stage in stages)
    result = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description, allow_abbrev=False)
    result.set_defaults(stage=stage)
    result.add_argument(f"--{kind}", dest="name", required=True, metavar="NAME", help=f"name of the {kind} in --params")
    result.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    result.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the log file (%(default)s)")
    text = "folder of saved states, and of why jobs failed (%(default)s)"
    result.add_argument("--state", type=Path, default=failures.FOLDER, metavar="DIR", help=text)
    return result


def analysis(stage: str, description: str, argv: list[str] | None, **inputs: str) -> argparse.ArgumentParser:
    """A parser for an analysis of a run: paths and parameters default to those of the pipeline.

    inputs: what each path is, by the name of its option in dvc.yaml. Every parameter of the stage's section becomes an
    option as well, whose help shows the value that params.yaml holds.
    """
    result = parser(stage, description)
    known = _known(result, argv)
    for name, text in inputs.items():
        result.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"{text} (the run's own)")
    result.add_argument("--out", type=str, required=True, metavar="DIR", help="folder to write")
    fields = SECTIONS[stage].model_fields if stage in SECTIONS else {}
    try:
        asked = bool(fields) and known.help
        shared, said = (load_params(known.params).shared[stage], comments(known.params, stage)) if asked else ({}, {})
    except MebmError:  # said when the command runs
        shared, said = {}, {}
    for key in fields:
        text = f"{said.get(key, '')} ({_yaml(shared[key])})" if key in shared else ""
        result.add_argument(f"--{key.replace('_', '-')}", dest=f"set_{key}", metavar="X", help=text.replace("%", "%%"))
    result.set_defaults(inputs=tuple(inputs))
    return result


def _known(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Only --params and --help, before the other options can be known."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("-h", "--help", action="store_true")
    first.add_argument("--params", type=Path, default=parser.get_default("params"))
    return first.parse_known_args(argv)[0]


def _yaml(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _completed(args: argparse.Namespace, settings: AnySettings, loaded: Params) -> AnySettings:
    """The settings with parameters of the command line laid over those of the file.

    Also fills in what an analysis was not told: paths of the run.
    """
    if not args.out.strip():  # a path of no letters is the current folder
        raise ParamsError("--out: is empty, expected the folder to write")
    args.out = Path(args.out)
    if missing := [f"--{name}" for name in args.inputs if getattr(args, name) is None]:
        graph = args.params.parent / "dvc.yaml"
        if not graph.is_file():
            raise ParamsError(
                f"{graph}: no such file. Paths default to those that dvc.yaml beside the parameter file names; "
                f"give {', '.join(missing)} as well, or run in the project's folder"
            )
        options = Graph(graph, loaded).options(args.stage, args.name)
        for name in args.inputs:
            if getattr(args, name) is None:
                setattr(args, name, Path(options[name]))
    own = {key[4:]: value for key, value in vars(args).items() if key.startswith("set_") and value is not None}
    return settings.model_copy(update={args.stage: changed(getattr(settings, args.stage), own)}) if own else settings


def execute(
    arguments: argparse.ArgumentParser,
    argv: list[str] | None,
    work: Callable[[argparse.Namespace, AnySettings], None],
    makes: Callable[[AnySettings], Iterable[str]] | None = None,
) -> int:
    """Parse, check the whole parameter file, and call work(args, settings). Returns the exit status.

    settings: what the class of the stage in mebm/settings/stages.py says. Where an engine runs the job, they are taken
    from its record, and from the parameter file only what records leave out. args.record() is the record's text.

    makes: for a stage whose --out is a folder, from its settings the files that it makes there; it touches no others,
    as `owning` says. An analysis that does not say which is stopped at the first file that is not its own.

    0: done. 1: one line on stderr says what was wrong. 2: so it does for a parameter or a flag. 130, 143: SIGINT or
    SIGTERM came. Anything that is not an error of the project's own keeps its traceback, except running out of memory
    or a failing disk.
    """
    args = arguments.parse_args(argv)
    args.started = False
    try:
        loaded = load_params(args.params)
        args.record = partial(records.text, loaded, args.stage, args.name)
        in_pipeline = _is_job(args)
        if in_pipeline:
            engine.refuse_beside_snakemake()
            mend.mend_or_stop()
            settings = records.recorded(loaded, args.stage, args.name)
            if args.stage in FIRST:
                refuse_what_was_asked(loaded)
        else:
            settings = loaded.resolve(args.stage, args.name)
        if hasattr(args, "inputs"):
            settings = _completed(args, settings, loaded)
        _check_outputs(args)
        open_log(args.logs / f"{args.stage}.{args.name}.log")
        args.started = in_pipeline  # from here on, why it fails is why its result is missing
        if in_pipeline:
            failures.forget(args.stage, args.name, args.state)
            _look_around(args, loaded)
        log.info("%s %s: start", args.stage, args.name)
        with _owned(args, makes(settings) if makes else () if hasattr(args, "inputs") else None):
            work(args, settings)
        log.info("%s %s: done", args.stage, args.name)
        return 0
    except ParamsError as error:
        return _fail(args, error, 2)
    except Stopped as error:
        return _fail(args, f"{error}; run the same command to go on", 130)
    except MebmError as error:
        return _fail(args, error, 1)
    except Interrupted as stop:  # which was told on stderr when it came
        _note(args, "interrupted")
        return stop.code
    except (MemoryError, OSError, RuntimeError, ImportError) as error:
        if lacks_memory(error):
            return _fail(args, NO_MEMORY, 1)
        if not isinstance(error, OSError):
            raise
        return _fail(args, f"{clipped(str(error.filename or args.stage), 200)}: {error.strerror or error}", 1)


def _owned(args: argparse.Namespace, names: Iterable[str] | None) -> AbstractContextManager:
    """Keeps the command to its own files. Where an engine runs it, the outputs are the engine's, which removes them."""
    if names is None or _is_job(args) or _rank() != "0":
        return nullcontext()
    return owning(args.out, f"{args.stage} {args.name}", names)


def _is_job(args: argparse.Namespace) -> bool:
    # in a folder below, DVC puts the path of dvc.yaml before it
    return parts(os.environ.get("DVC_STAGE", "").rpartition(":")[2]) == (args.stage, args.name)


def _check_outputs(args: argparse.Namespace) -> None:
    """Raises ParamsError where a file to write is one that the command reads."""
    paths = {f"--{key}": path for key, path in vars(args).items() if isinstance(path, Path)}
    outputs = {flag: path for flag, path in paths.items() if flag in ("--out", "--metrics")}
    if hasattr(args, "inputs") and args.out.is_file():
        raise ParamsError(f"--out: {args.out} is a file, expected the folder to write")
    for flag, out in outputs.items():
        for other, path in paths.items():
            if other != flag and out.is_file() and path.exists() and out.samefile(path):
                raise ParamsError(f"{flag}: {out} is also {other}, and would be overwritten; give another path")


def _look_around(args: argparse.Namespace, loaded: Params) -> None:
    """What lies where a job of DVC's reads and writes, before it works.

    Raises DataError for outputs behind a link, which DVC cannot record, and for inputs that are not as recorded.
    """
    graph = Graph("dvc.yaml", loaded)
    address = graph.address(args.stage, args.name)
    refuse_links(graph.jobs[address].outs)
    for path in remove_strays(graph, address):
        log.info("removed %s: no job of this suite makes it; DVC's cache has it", path)
    mend.check_inputs(graph, address)


def device_for(compute: Compute, claimed: str | None = None):
    """The torch device that `compute` asks for, as mebm/training/devices.py says. `provenance` tells of it."""
    device = devices.device_for(compute, claimed)
    _provenance.update(
        device=device.type,
        device_name=_name_of(device),
        **compute.model_dump(include={"cpu_threads", "deterministic", "eval_batch_size"}),
    )
    return device


def provenance() -> dict[str, object]:
    """Where and how the numbers of this process were computed, of which the record of its job says nothing."""
    return dict(_provenance)


def _name_of(device) -> str:
    import torch

    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def progress(label: str) -> Callable[[int, int, str], None]:
    """A function (done, total, text) that shows progress: a bar on a terminal, and a log line at each tenth."""
    from tqdm import tqdm

    start, tenth = time.monotonic(), -1
    bar = tqdm(desc=label, unit="it", disable=not sys.stderr.isatty() or _rank() != "0", dynamic_ncols=True)

    def show(done: int, total: int, text: str) -> None:
        nonlocal tenth
        if not bar.disable:
            bar.total = total
            bar.set_postfix_str(text, refresh=False)
            bar.update(done - bar.n)
        if 10 * done // total > tenth:
            tenth = 10 * done // total
            elapsed = time.monotonic() - start
            values = (label, done, total, done / elapsed, elapsed / done * (total - done), text)
            write = log.info if bar.disable else _file_only
            write("%s: %d/%d, %.2f it/s, %.0f s left, %s", *values)
        if done >= total:
            bar.close()

    return show


def _file_only(message: str, *values: object) -> None:
    record = log.makeRecord(log.name, logging.INFO, __file__, 0, message, values, None)
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(record)


def open_log(path: Path) -> None:
    """Log to stderr and, from the start, into this file."""
    for handler in list(log.handlers):
        log.removeHandler(handler)
        handler.close()
    if _rank() != "0":
        log.setLevel(logging.CRITICAL)  # of several processes of one run the first one speaks
        return
    log.setLevel(logging.INFO)
    path.parent.mkdir(parents=True, exist_ok=True)
    file = logging.FileHandler(path, mode="w", encoding="utf-8", errors="backslashreplace")
    for handler in (logging.StreamHandler(sys.stderr), file):
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
        log.addHandler(handler)


def _fail(args: argparse.Namespace, error: object, status: int) -> int:
    line = one_line(error)
    print(f"error: {line}" if _rank() == "0" else f"rank {_rank()}: error: {line}", file=sys.stderr)
    _note(args, line)
    return status


def _note(args: argparse.Namespace, line: str) -> None:
    """Why the command failed, in its log file, and where an engine runs it, for the tables."""
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.write(f"error: {line}\n")
            handler.flush()
    if args.started and _rank() == "0":
        failures.note(args.stage, args.name, line, args.state)


def _rank() -> str:
    """Number of this process, as torchrun gives it."""
    return os.environ.get("RANK", "0")


def packages() -> dict[str, str]:
    """Versions of the packages that a metric depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "numpy")}
