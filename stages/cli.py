"""What every stage's command line shares: arguments, log, progress, and errors that end in one line."""

import argparse
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

from mebm import params
from mebm.errors import MebmError, ParamsError, Stopped
from mebm.files import refuse_links
from mebm.pipeline import Graph
from stages import Interrupted

KINDS = {
    "dataset": params.DATASET_STAGES | params.COMPARED_STAGES,
    "run": params.TRAINED_STAGES | params.IMPORTED_STAGES | params.RUN_STAGES | params.ANALYSIS_STAGES,
    "table": params.TABLE_STAGES,
    "suite": params.SUITE_STAGES,
}
log = logging.getLogger("mebm")


def parser(stage: str, description: str) -> argparse.ArgumentParser:
    """A parser with the name option of the stage (--dataset, --run, --table or --suite), --params and --logs."""
    kind = next(kind for kind, stages in KINDS.items() if stage in stages)
    result = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=description, allow_abbrev=False)
    result.set_defaults(stage=stage)
    result.add_argument(f"--{kind}", dest="name", required=True, metavar="NAME", help=f"name of the {kind} in --params")
    result.add_argument("--params", type=Path, default=Path("params.yaml"), help="parameter file (%(default)s)")
    result.add_argument("--logs", type=Path, default=Path("logs"), help="folder of the log file (%(default)s)")
    return result


def analysis(stage: str, description: str, argv: list[str] | None, **inputs: str) -> argparse.ArgumentParser:
    """A parser for a stage that looks at a run: paths and parameters default to those of the pipeline.

    inputs: what each path is, by the name of its option in dvc.yaml. Every parameter of the stage's section becomes an
    option as well, whose help shows the value that params.yaml holds.
    """
    result = parser(stage, description)
    file = _known(result, argv).params
    for name, text in inputs.items():
        result.add_argument(f"--{name}", type=Path, metavar="PATH", help=f"{text} (the run's own)")
    result.add_argument("--out", type=str, required=True, metavar="DIR", help="folder to write")
    fields = params.SECTIONS[stage].model_fields if stage in params.SECTIONS else {}
    try:
        shared, said = (params.load(file).shared(stage), params.comments(file, stage)) if fields else ({}, {})
    except MebmError:  # said when the command runs
        shared, said = {}, {}
    for key in fields:
        text = f"{said.get(key, '')} ({_yaml(shared[key])})" if key in shared else ""
        result.add_argument(f"--{key.replace('_', '-')}", dest=f"set_{key}", metavar="X", help=text.replace("%", "%%"))
    result.set_defaults(inputs=tuple(inputs))
    return result


def _known(parser: argparse.ArgumentParser, argv: list[str] | None) -> argparse.Namespace:
    """Only --params, before the other options can be known."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--params", type=Path, default=parser.get_default("params"))
    return first.parse_known_args(argv)[0]


def _yaml(value: object) -> str:
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def _complete(args: argparse.Namespace, settings: SimpleNamespace, loaded: params.Params) -> None:
    """Fill in what an analysis was not told: paths of the run; and lay its own parameters over those of the file."""
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
    if own:
        setattr(settings, args.stage, params.changed(getattr(settings, args.stage), own))


def execute(
    arguments: argparse.ArgumentParser,
    argv: list[str] | None,
    work: Callable[[argparse.Namespace, SimpleNamespace], None],
) -> int:
    """Parse, check the whole parameter file, and call work(args, settings). Returns the exit status.

    0: done. 1: one line on stderr says what was wrong. 2: so it does for a parameter or a flag. 130, 143: SIGINT or
    SIGTERM came. Anything that is not an error of the project's own keeps its traceback, except running out of memory
    or a failing disk.
    """
    args = arguments.parse_args(argv)
    try:
        loaded = params.load(args.params)
        settings = loaded.resolve(args.stage, args.name)
        _check_record(args, loaded)
        if hasattr(args, "inputs"):
            _complete(args, settings, loaded)
        _open_log(args.logs / f"{args.stage}.{args.name}.log")
        log.info("%s %s: start", args.stage, args.name)
        work(args, settings)
        log.info("%s %s: done", args.stage, args.name)
        return 0
    except ParamsError as error:
        return _fail(error, 2)
    except Stopped as error:
        return _fail(f"{error}; run the same command to go on", 130)
    except MebmError as error:
        return _fail(error, 1)
    except Interrupted as stop:  # which was told on stderr when it came
        _note("error: interrupted")
        return stop.code
    except MemoryError:
        return _fail("out of memory; lower the batch size or compute.eval_batch_size", 1)
    except OSError as error:
        return _fail(f"{error.filename or args.stage}: {error.strerror or error}", 1)
    except RuntimeError as error:
        if "out of memory" not in str(error) and "can't allocate memory" not in str(error):
            raise
        return _fail("out of memory; lower the batch size or compute.eval_batch_size", 1)


def _check_record(args: argparse.Namespace, loaded: params.Params) -> None:
    """For a job of DVC's: that it can record what comes out.

    Raises ParamsError where it would record other parameters than the file holds now, DataError for outputs behind a
    link.
    """
    address = f"{args.stage}@{args.name}"
    if os.environ.get("DVC_STAGE") != address:
        return
    job = Graph("dvc.yaml", loaded).jobs.get(address) if Path("dvc.yaml").is_file() else None
    refuse_links(job.outs if job else ())
    path = Path("results/params") / f"{args.stage}.{args.name}.yaml"
    if not path.is_file():
        return
    if path.read_text(encoding="utf-8") != params.record(loaded, args.stage, args.name):
        raise ParamsError(
            f"{args.params}: was changed after {path} was made from it, and the result would be recorded with that; "
            "run `snakemake` or `dvc repro` again"
        )


def last_error(logs: Path, stages: tuple[str, ...], name: str) -> str:
    """The line with which the last of `stages` that failed for `name` ended; empty where none did."""
    for stage in reversed(stages):
        path = logs / f"{stage}.{name}.log"
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        if lines and lines[-1].startswith("error: "):
            return f"{stage} failed: {lines[-1].removeprefix('error: ')}"
    return ""


def device_for(compute: params.Compute, claimed: str | None = None):
    """The torch device that `compute` asks for, with its threads and determinism set.

    claimed: the GPU that this process took for itself, which is then the only one that it sees. Raises ParamsError
    where there is no such device.
    """
    import torch

    torch.set_num_threads(compute.cpu_threads)
    has_cuda = torch.cuda.is_available()
    if has_cuda:
        torch.use_deterministic_algorithms(compute.deterministic)
        torch.backends.cudnn.benchmark = not compute.deterministic
        if claimed is not None:  # one id, or the number of this process among several
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
    if compute.device.startswith("cuda") and not has_cuda:
        raise ParamsError(f"compute.device is {compute.device}, but there is no CUDA device; set it to auto or cpu")
    if compute.device == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    return torch.device(compute.device)


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


def _open_log(path: Path) -> None:
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


def _fail(error: object, status: int) -> int:
    line = re.sub(r"\s+", " ", str(error)).strip()
    print(f"error: {line}" if _rank() == "0" else f"rank {_rank()}: error: {line}", file=sys.stderr)
    _note(f"error: {line}")
    return status


def _note(line: str) -> None:
    """A line in the log file only."""
    for handler in log.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.write(f"{line}\n")
            handler.flush()


def _rank() -> str:
    """Number of this process, as torchrun gives it."""
    return os.environ.get("RANK", "0")


def versions() -> dict[str, str]:
    """Versions that a metric depends on."""
    from importlib.metadata import version

    return {name: version(name) for name in ("torch", "numpy")}


os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it CUDA sums in an order of its own
