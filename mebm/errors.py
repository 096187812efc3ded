"""One exception per cause. Every message names the thing, what was found and what to do, on one short line."""

import errno
import re
import reprlib
from collections.abc import Iterable

SHOWN = 60  # characters of a value in a message
NO_MEMORY = "out of memory; lower the batch size or compute.eval_batch_size"


def one_line(error: object) -> str:
    """A message as one line that a terminal can show: names of files may hold anything."""
    line = " ".join(str(error).split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


class MebmError(Exception):
    """Base of the project's own errors: a stage prints its message as one line and exits non-zero."""


class ParamsError(MebmError):
    """A parameter is unknown, of the wrong type or out of range."""


class DataError(MebmError):
    """A data file is missing, damaged, or holds values that it must not."""


class CheckpointError(MebmError):
    """A checkpoint is missing, damaged, or belongs to another network."""


class Diverged(MebmError):
    """Training has diverged: its numbers no longer mean anything (docs/method.md, Divergence).

    iteration: the one that diverged; values: its energies, loss and gradient norms.
    """

    def __init__(self, message: str, iteration: int = 0, values: dict[str, float] | None = None):
        super().__init__(message)
        self.iteration, self.values = iteration, values or {}


class StateError(MebmError):
    """Training state cannot be written, or belongs to a process that is still at work."""


class Stopped(MebmError):
    """Training was asked to stop, and its state is saved."""


class MetricError(MebmError):
    """A metric is not defined for its input."""


class _Short(reprlib.Repr):
    """Python's own form of a value, cut: a mistake may be a list of 100,000 entries or a number of 400 digits."""

    def __init__(self):
        super().__init__()
        self.maxstring = self.maxother = SHOWN
        self.maxlevel = 3

    def repr_int(self, x: int, level: int) -> str:
        if abs(x) < 10**20:
            return repr(x)
        return f"an integer of about {round(x.bit_length() * 0.30103)} digits"  # repr refuses one of 4,301


_SHORT = _Short()


def shown(value: object) -> str:
    """A value in a message, on one line and never longer than 60 characters or so; control characters as escapes."""
    return clipped(_SHORT.repr(value), SHOWN + 2)


def clipped(text: str, length: int) -> str:
    """The text on one line, its end replaced by dots where it is longer than `length`."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 3]}..."


def named(key: object) -> str:
    """A key in a message: as it is where it is an ordinary name, else as `shown` shows it."""
    return key if isinstance(key, str) and re.fullmatch(r"[\w./-]{1,64}", key, re.ASCII) else shown(key)


def listed(names: Iterable[object], length: int = 200) -> str:
    """Names in a message, separated by commas; those that do not fit into about `length` characters are counted."""
    parts = [named(name) for name in names]
    fit, used = 0, 0
    while fit < len(parts) and (fit == 0 or used + len(parts[fit]) + 2 <= length):
        used += len(parts[fit]) + 2
        fit += 1
    more = [f"and {len(parts) - fit} more"] if fit < len(parts) else []
    return ", ".join([*parts[:fit], *more]) or "none"


def lacks_memory(error: BaseException) -> bool:
    """Whether memory was missing: for numbers, on a GPU, or for a library that an import was to load."""
    texts = ("out of memory", "allocate memory", "failed to map segment from shared object")
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or any(text in str(error) for text in texts)
    )
