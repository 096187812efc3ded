"""Who watches a training: TensorBoard's events, and trackers of other packages (docs/runs.md, Watching training).

They are told the rows of the log as they come, decide no number, and cannot end a training: one that fails is dropped.
"""

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import entry_points
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

from mebm.errors import Diverged, Stopped, clipped
from mebm.settings.schema import TENSORBOARD, TRACKERS

Row = dict[str, float]


@dataclass(frozen=True)
class Watched:
    """A training, as a tracker learns of it when it is made.

    key: the same for a training that goes on after an interruption, another for one with other settings, inputs or
    code; settings: the section `train`, as plain data; logs: the folder of logs.
    """

    run: str
    key: str
    settings: dict[str, Any]
    logs: Path


class Tracker(Protocol):
    """What `compute.trackers` names: made by one call with a `Watched`. docs/extending.md has an example."""

    def start(self, iteration: int) -> None:
        """Training is at this iteration, counted from 0: at its beginning, or going on. What was told of later
        iterations no longer counts. Called again after a divergence that training goes back from."""

    def log(self, row: Row) -> None:
        """A row of log.csv, by column: means over the `log_every` iterations up to `iteration`."""

    def look(self, row: Row, chains: Path) -> None:
        """A row of epochs.csv, by column, and a PNG of the first chains. Columns without a number are missing."""

    def end(self, status: str) -> None:
        """finished, stopped (it can go on), diverged or failed."""


class TensorBoard:
    """Writes events of scalars and pictures to `logs/tensorboard/<run>/<key>`, each with the time of its writing.

    A training that goes on adds a file to the same folder, and TensorBoard leaves out what earlier files say of later
    iterations.
    """

    def __init__(self, watched: Watched):
        self._folder = watched.logs / TENSORBOARD / watched.run / watched.key
        self._file = self._writer = None

    def start(self, iteration: int) -> None:
        from tensorboard.compat.proto.event_pb2 import SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            # TensorBoard reads files in the order of their names
            name = f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}"
            self._file = open(self._folder / name, "xb")  # noqa: SIM115
            self._writer = RecordWriter(self._file)
            self._write(file_version="brain.Event:2")
        self._write(step=iteration, session_log=SessionLog(status=SessionLog.START))

    def log(self, row: Row) -> None:
        self._summary(row, "train", [])

    def look(self, row: Row, chains: Path) -> None:
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary

        with Image.open(chains) as opened:
            width, height = opened.size
        picture = Summary.Image(width=width, height=height, colorspace=3, encoded_image_string=chains.read_bytes())
        self._summary(row, "epoch", [Summary.Value(tag="chains", image=picture)])

    def end(self, status: str) -> None:
        del status
        self._file.close()

    def _summary(self, row: Row, group: str, values: list) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary

        for name, value in row.items():
            if name not in ("iteration", "epoch") and isfinite(value):
                values.append(Summary.Value(tag=f"{group}/{name}", simple_value=value))
        self._write(step=int(row["iteration"]), summary=Summary(value=values))

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._writer.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._writer.flush()


class Trackers:
    """Those of `names`, told all at once; `tracking` makes one. One that raises is dropped with a line of warning."""

    def __init__(self, names: list[str], watched: Watched, say: Callable[[str], None]):
        self._say, self._at = say, -1
        self._trackers: dict[str, Tracker] = {}
        for name in names:
            with self._dropped_if_it_fails(name):
                self._trackers[name] = _named(name)(watched)

    def log(self, row: Row) -> None:
        """A row of log.csv."""
        self._go_to(int(row["iteration"]))
        self._tell("log", dict(row))

    def look(self, row: Row, chains: Path) -> None:
        """A row of epochs.csv, and a picture of the chains."""
        self._go_to(int(row["iteration"]))
        self._tell("look", dict(row), chains)

    def end(self, status: str) -> None:
        """No more rows will come."""
        if self._at >= 0:
            self._tell("end", status)

    def _go_to(self, iteration: int) -> None:
        if self._at < 0 or iteration < self._at:
            self._tell("start", iteration)
        self._at = iteration

    def _tell(self, method: str, *values: Any) -> None:
        for name, tracker in list(self._trackers.items()):
            with self._dropped_if_it_fails(name):
                getattr(tracker, method)(*values)

    @contextmanager
    def _dropped_if_it_fails(self, name: str) -> Iterator[None]:
        try:
            yield
        except (Exception, SystemExit) as error:  # whatever another package raises
            self._trackers.pop(name, None)
            reason = clipped(str(error) or type(error).__name__, 200)
            self._say(f"warning: the tracker {name} is left out from here on: {reason}")


@contextmanager
def tracking(names: list[str], watched: Watched, say: Callable[[str], None]) -> Iterator[Trackers]:
    """The trackers of a training that is the block, whose end they are told. say: called with a line of warning."""
    trackers, status = Trackers(names, watched, say), "failed"
    try:
        yield trackers
        status = "finished"
    except Stopped:
        status = "stopped"
        raise
    except Diverged:
        status = "diverged"
        raise
    finally:
        trackers.end(status)


def _named(name: str) -> Callable[[Watched], Tracker]:
    return TensorBoard if name == TENSORBOARD else entry_points(group=TRACKERS)[name].load()
