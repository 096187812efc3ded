"""Trackers learn what happens, in TensorBoard's format as well, and cannot harm a training."""

from pathlib import Path

import numpy as np
import pytest
import smoke
import yaml
from PIL import Image
from pydantic import ValidationError
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mebm.data.archives import save_images
from mebm.errors import Diverged, Stopped
from mebm.training import trackers
from mebm.training.state import StateStore
from mebm.training.trackers import TensorBoard, Watched, tracking
from stages import gaussian, train


class Notes:
    """Remembers what it is told; `fails` is the method that raises."""

    fails, error = "", RuntimeError("no\nnetwork")

    def __init__(self, watched: Watched):
        self.told = []
        self._tell("made", watched.run)

    def __getattr__(self, method: str):
        if method not in ("start", "log", "look", "end"):
            raise AttributeError(method)
        return lambda *values: self._tell(method, *values)

    def _tell(self, method: str, *values) -> None:
        if method == self.fails:
            raise self.error
        self.told.append((method, *values))


@pytest.fixture
def watched(tmp_path) -> Watched:
    return Watched("mjem", "0123", {"lr": 0.1}, tmp_path)


@pytest.fixture
def notes(monkeypatch) -> list[Notes]:
    """Trackers of the names good and bad that were made; bad ones fail at their first row."""
    made = []
    bad = type("Bad", (Notes,), {"fails": "log"})

    def make(name: str):
        def one(watched: Watched) -> Notes:
            made.append((bad if name == "bad" else Notes)(watched))
            return made[-1]

        return one

    monkeypatch.setattr(trackers, "_named", make)
    return made


def test_they_are_told_start_rows_looks_and_end(watched, notes, tmp_path):
    with tracking(["good"], watched, print) as told:
        told.look({"epoch": 0, "iteration": 0}, tmp_path / "a.png")
        told.log({"iteration": 4, "loss": 1.0})
        told.log({"iteration": 9, "loss": 2.0})
        told.log({"iteration": 4, "loss": 3.0})  # after going back
    assert [event[:2] for event in notes[0].told] == [
        ("made", "mjem"),
        ("start", 0),
        ("look", {"epoch": 0, "iteration": 0}),
        ("log", {"iteration": 4, "loss": 1.0}),
        ("log", {"iteration": 9, "loss": 2.0}),
        ("start", 4),
        ("log", {"iteration": 4, "loss": 3.0}),
        ("end", "finished"),
    ]


@pytest.mark.parametrize(
    ("error", "status"), [(Stopped("x"), "stopped"), (Diverged("x"), "diverged"), (OSError("x"), "failed")]
)
def test_they_are_told_how_it_ended(watched, notes, error, status):
    def training() -> None:
        with tracking(["good"], watched, print) as told:
            told.log({"iteration": 4})
            raise error

    with pytest.raises(type(error)):
        training()
    assert notes[0].told[-1] == ("end", status)


def test_what_is_told_cannot_be_changed(watched, notes):
    row = {"iteration": 4, "loss": 1.0}
    with tracking(["good"], watched, print) as told:
        told.log(row)
        notes[0].told[-1][1].clear()
    assert row == {"iteration": 4, "loss": 1.0}


@pytest.mark.parametrize("error", [RuntimeError("no\nnetwork"), SystemExit(), KeyError("a")])
@pytest.mark.parametrize("method", ["made", "start", "log", "end"])
def test_one_that_fails_is_dropped_with_a_line(watched, monkeypatch, method, error):
    lines, one = [], type("Bad", (Notes,), {"fails": method, "error": error})
    monkeypatch.setattr(trackers, "_named", lambda _: one)
    with tracking(["bad"], watched, lines.append) as told:
        told.log({"iteration": 4})
        told.log({"iteration": 9})
    (line,) = lines
    assert line.startswith("warning: the tracker bad is left out from here on: ")
    assert "\n" not in line


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder)).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_reads_the_events_of_a_training_that_went_on(watched, tmp_path):
    Image.new("L", (4, 6)).save(tmp_path / "chains.png")
    with tracking(["tensorboard"], watched, pytest.fail) as told:
        told.look({"epoch": 0, "iteration": 0}, tmp_path / "chains.png")
        for iteration in (4, 9, 14):
            told.log({"iteration": iteration, "epoch": 0, "loss": iteration / 2, "x_neg_max": float("nan")})
    folder = tmp_path / "tensorboard" / "mjem" / "0123"
    assert events(folder) == {"train/loss": [(4, 2.0), (9, 4.5), (14, 7.0)]}
    with tracking(["tensorboard"], watched, pytest.fail) as told:
        told.log({"iteration": 9, "epoch": 0, "loss": -1.0})
        told.look({"epoch": 1, "iteration": 10, "accuracy": 0.5}, tmp_path / "chains.png")
    assert len(list(folder.iterdir())) == 2
    assert events(folder) == {"train/loss": [(4, 2.0), (9, -1.0)], "epoch/accuracy": [(10, 0.5)]}
    found = EventAccumulator(str(folder)).Reload()
    first, last = found.Images("chains")
    assert (first.step, last.step, last.width, last.height) == (0, 10, 4, 6)
    assert 1.5e9 < first.wall_time < last.wall_time < 1e10  # seconds since 1970


def test_events_can_be_read_while_the_training_is_at_work(watched, tmp_path):
    tracker = TensorBoard(watched)
    tracker.start(0)
    tracker.log({"iteration": 4, "loss": 1.0})
    assert events(tmp_path / "tensorboard" / "mjem" / "0123") == {"train/loss": [(4, 1.0)]}
    tracker.end("failed")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["wandb"], "expected tensorboard, or a tracker that an installed package has: none"),
        (["tensorboard", "tensorboard"], "occurs twice"),
        ("tensorboard", "list"),
    ],
)
def test_a_name_that_no_package_has_is_refused(names, message):
    with pytest.raises(ValidationError, match=message):
        smoke.section("compute", trackers=names)


@pytest.fixture
def inputs(tmp_path, monkeypatch) -> list[str]:
    """Words of the training of a run in the current folder, and its parameters."""
    monkeypatch.chdir(tmp_path)
    generator = np.random.default_rng(0)
    for part, count in (("train", 160), ("test", 30)):
        images = generator.integers(0, 256, (count, 1, 8, 8), np.uint8)
        save_images(tmp_path / f"{part}.npz", images, np.arange(count) % 10)
    write(["tensorboard"])
    assert gaussian.main(["--dataset", "digits", "--train", "train.npz", "--out", "gaussian.npz"]) == 0
    return ["--run", "mjem", "--train", "train.npz", "--test", "test.npz", "--gaussian", "gaussian.npz", "--out", "out"]


def write(names: list[str]) -> None:
    content = smoke.small_params()
    content["train"] |= {"label_batch_size": 32, "batch_size": 16, "epochs": 1, "log_every": 2}
    content["compute"] |= {"trackers": names, "save_every": 4}
    Path("params.yaml").write_text(yaml.safe_dump(content))


def test_a_training_is_told_and_its_files_do_not_know(inputs, notes, monkeypatch):
    """A tracker changes no byte and no key; one that fails costs a line."""
    assert train.main(inputs) == 0
    made = {path.name: path.read_bytes() for path in Path("out").glob("*") if path.suffix in (".pt", ".csv")}
    (key,) = [path.name for path in Path(".state/mjem").iterdir()]
    monkeypatch.setattr(
        "mebm.settings.schema.entry_points", lambda group: type("Found", (), {"names": {"good", "bad"}})
    )
    write(["good", "bad"])
    assert train.main([*inputs, "--restart"]) == 0
    assert made == {name: Path("out", name).read_bytes() for name in made}
    assert {"checkpoint.pt", "log.csv", "epochs.csv"} == set(made)
    assert [path.name for path in Path(".state/mjem").iterdir()] == [key]
    good, bad = notes[-2:]
    assert [event[0] for event in bad.told] == ["made", "start", "look"]
    rows = [event[1] for event in good.told if event[0] == "log"]
    assert [f"{row['loss']:.6g}" for row in rows] == [line.split(",")[8] for line in lines_of("out/log.csv")]
    assert [event[1]["epoch"] for event in good.told if event[0] == "look"] == [0, 1]
    assert all(Path(event[2]).is_file() for event in good.told if event[0] == "look")
    said = Path("logs/train.mjem.log").read_text()
    assert said.count("warning: the tracker bad is left out from here on: no network") == 1


def lines_of(path: str) -> list[str]:
    return Path(path).read_text().splitlines()[1:]


def test_events_of_an_interrupted_training_go_on_in_the_same_folder(inputs, monkeypatch):
    save = StateStore.save_behind

    def stop_after(store: StateStore, record: dict, iteration: int) -> None:
        save(store, record, iteration)
        store.wait()
        raise Stopped("stopped")

    with monkeypatch.context() as patch:
        patch.setattr(StateStore, "save_behind", stop_after)
        assert train.main(inputs) == 130
    assert train.main(inputs) == 0
    (folder,) = Path("logs/tensorboard/mjem").iterdir()
    assert len(list(folder.iterdir())) == 2
    steps = [step for step, _ in events(folder)["train/loss"]]
    assert steps == [int(line.split(",")[0]) for line in lines_of("out/log.csv")]
