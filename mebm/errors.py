"""One exception per cause. Every message names the thing, what was found and what to do."""


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
    """Training left the range in which its numbers mean anything (METHOD: |L| > 1e5 or not finite).

    iteration: which; values: its energies, loss and gradient norms.
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
