"""A training run over time: its log, its snapshots every few epochs, and the forms in which both are shown."""

import re
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from mebm.errors import DataError
from mebm.figures.grids import make_grid
from mebm.figures.plots import figure, message
from mebm.files import replacing, require

LOG_COLUMNS = (
    *("iteration", "energy_pos", "energy_neg", "energy_gap", "grad_norm", "weight_grad_norm", "loss", "cross_entropy"),
    *("x_neg_saturated", "x_pos_saturated"),
)
EPOCH_COLUMNS = ("epoch", "iteration", "accuracy", "loss")
GRID_SIDE = 660  # pixels of an animated grid at most
FRAMES = 24  # of an animation at most
FRAME_MS, LAST_MS = 600, 2500  # how long a frame stays, and the last one
LABEL_HEIGHT = 22  # pixels below a grid for its epoch
EVENTS = "events.out.tfevents.0.mebm"  # TensorBoard knows its files by the middle part


def read_log(path: str | Path) -> pd.DataFrame:
    """The rows of a run's log.csv. Raises DataError for a file without rows or with other columns."""
    return _read(path, LOG_COLUMNS, "training log")


def read_epochs(path: str | Path) -> pd.DataFrame:
    """The rows of a run's epochs.csv, NaN where there was no classifier to judge. Raises DataError as `read_log`."""
    return _read(path, EPOCH_COLUMNS, "record of epochs")


def _read(path: str | Path, columns: tuple[str, ...], what: str) -> pd.DataFrame:
    require(path)
    advice = "give the one that training wrote, or train the run again"
    try:
        table = pd.read_csv(path)
    except (ValueError, OverflowError, RecursionError) as error:  # pandas' own, and text that is not UTF-8
        raise DataError(f"{path}: is not a {what} (it is not a table); {advice}") from error
    if lacking := [name for name in columns if name not in table]:
        raise DataError(f"{path}: is not a {what} (it lacks the column {lacking[0]}); {advice}")
    if not len(table):
        raise DataError(f"{path}: is not a {what} (it has no rows); {advice}")
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes what has no heading for the rows' names
        raise DataError(f"{path}: is not a {what} (its rows have more values than the heading); {advice}")
    whole = [name for name in ("iteration", "epoch") if name in columns]
    try:
        table = table.astype(dict.fromkeys(columns, float))
        if (table[whole] % 1 != 0).any(axis=None):
            raise ValueError
        table = table.astype(dict.fromkeys(whole, int))
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{path}: is not a {what} (a value is not a number); {advice}") from error
    if not all(pd.api.types.is_numeric_dtype(kind) for kind in table.dtypes):
        raise DataError(f"{path}: is not a {what} (a value is not a number); {advice}")
    for name in whole:
        if (table[name] < 0).any() or not table[name].is_monotonic_increasing:
            raise DataError(f"{path}: is not a {what} (the column {name} does not count upwards from 0); {advice}")
    if not table[whole[-1]].is_unique:
        raise DataError(f"{path}: is not a {what} (a number of {whole[-1]} occurs twice); {advice}")
    if np.isinf(table[list(columns)]).any(axis=None):
        raise DataError(f"{path}: is not a {what} (a value is infinite); {advice}")
    return table


def snapshots(folder: str | Path) -> dict[int, Path]:
    """Archives of chains by the epoch after which they were copied, 0 before training. Raises DataError for none."""
    found = {int(m[1]): path for path in Path(folder).glob("*.npz") if (m := re.fullmatch(r"epoch_(\d+)", path.stem))}
    if not found:
        raise DataError(f"{folder}: holds no snapshots epoch_*.npz; train the run again")
    return dict(sorted(found.items()))


def plot_curves(log: pd.DataFrame, path: str | Path) -> None:
    """Energies of data and samples, their gap, gradient norms, saturation and loss, against iterations, as SVG."""
    x = log["iteration"]
    with figure(path, 2, 3, (12, 5.5), sharex=True) as axes:
        axes[0, 0].plot(x, log["energy_pos"], label="data", linewidth=1.2)
        axes[0, 0].plot(x, log["energy_neg"], label="samples", linewidth=1.2)
        axes[0, 0].set(ylabel="mean energy (low = likely)")
        axes[0, 1].axhline(0, color="0.7", linewidth=1)
        axes[0, 1].plot(x, log["energy_gap"], color="C2", linewidth=1.2)
        axes[0, 1].set(ylabel="energy gap (data − samples)")
        axes[0, 2].plot(x, 100 * log["x_pos_saturated"], label="data", linewidth=1.2)
        axes[0, 2].plot(x, 100 * log["x_neg_saturated"], label="samples", linewidth=1.2)
        axes[0, 2].set(ylabel="saturated pixel values (%)", ylim=(0, None))
        axes[1, 0].plot(x, log["grad_norm"], color="C3", linewidth=1.2)
        axes[1, 0].set(ylabel="SGLD gradient norm", xlabel="iteration")
        axes[1, 1].plot(x, log["loss"], color="C4", label="total loss", linewidth=1.2)
        if (log["cross_entropy"] != 0).any():
            axes[1, 1].plot(x, log["cross_entropy"], color="C5", label="cross-entropy", linewidth=1.2)
        axes[1, 1].set(ylabel="loss", xlabel="iteration")
        axes[1, 2].plot(x, log["weight_grad_norm"], color="C6", linewidth=1.2)
        axes[1, 2].set(ylabel="gradient norm of the weights", xlabel="iteration")
        for axis in (axes[0, 0], axes[0, 2], axes[1, 1]):  # above the axes, where no curve is
            axis.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, frameon=False)


def plot_quality(epochs: pd.DataFrame, distance: str, score: str, path: str | Path) -> None:
    """Held-out accuracy, distance (on a logarithmic axis) and score against epochs, as SVG; only what was measured.

    epochs: columns epoch, accuracy, distance, score, NaN where there is none; distance, score: what these two are.
    """
    panels = {"accuracy": "held-out accuracy (%)", "distance": f"{distance} (low = good)", "score": score}
    panels = {name: label for name, label in panels.items() if epochs[name].notna().any()}
    if not panels:
        message(path, "neither accuracy nor quality could be measured")
        return
    from matplotlib.ticker import LogLocator

    with figure(path, 1, len(panels), (1 + 2.8 * len(panels), 3), squeeze=False) as axes:
        for color, (axis, (name, label)) in enumerate(zip(axes[0], panels.items(), strict=True)):
            known = epochs[epochs[name].notna()]
            values = known[name] * (100 if name == "accuracy" else 1)
            axis.plot(known["epoch"], values, marker="o", markersize=4, color=f"C{color}", clip_on=False)
            axis.set(xlabel="epoch", ylabel=label, xlim=(0, max(1, epochs["epoch"].max())))
            axis.xaxis.get_major_locator().set_params(integer=True)
            if name == "distance" and (values > 0).all():
                axis.set_yscale("log")
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_major_formatter("{x:g}")
                axis.yaxis.set_minor_formatter("")


def chain_grid(images: Tensor) -> Tensor:
    """About a hundred chains (the first of uint8 [N, C, H, W]) as one picture, uint8 [3, height, width].

    Fewer of large images, so that no side is longer than GRID_SIDE where four of them fit.
    """
    columns = min(10, max(4, GRID_SIDE // (images.shape[-1] + 1)))
    grid = make_grid(images[: columns * columns], columns)
    scale = max(1, 400 // grid.shape[2])
    return grid.repeat_interleave(scale, dim=1).repeat_interleave(scale, dim=2).contiguous()


def save_animation(path: str | Path, grids: dict[int, Tensor], still: str | Path) -> None:
    """The grids (uint8 [3, H, W] by epoch) as an animated WebP that loops, and the last one as a PNG at `still`.

    Lossless for grey pictures. Each frame says its epoch; of many epochs FRAMES are shown, with the first and the last.
    """
    from PIL import Image, ImageDraw, ImageFont

    epochs = list(grids)
    if len(epochs) > FRAMES:
        epochs = [epochs[round(i * (len(epochs) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
    font, frames = ImageFont.load_default(13), []
    for epoch in epochs:
        grid = grids[epoch]
        frame = Image.new("RGB", (grid.shape[2], grid.shape[1] + LABEL_HEIGHT), "white")
        frame.paste(Image.fromarray(_rows(grid)))
        text = f"epoch {epoch} of {epochs[-1]}" if epoch else "before training"
        ImageDraw.Draw(frame).text((4, grid.shape[1] + 3), text, fill="black", font=font)
        frames.append(frame)
    grey = bool((grids[epochs[-1]] == grids[epochs[-1]][:1]).all())
    durations = [FRAME_MS] * (len(frames) - 1) + [LAST_MS]
    with replacing(path) as temporary:
        options = {"lossless": True, "method": 6} if grey else {"quality": 80}
        frames[0].save(
            *(temporary, "WEBP"), save_all=True, append_images=frames[1:], duration=durations, loop=0, **options
        )
    with replacing(still) as temporary:
        frames[-1].save(temporary, "PNG")


def write_events(folder: str | Path, log: pd.DataFrame, epochs: pd.DataFrame, grids: dict[int, Tensor]) -> None:
    """One event file for TensorBoard: scalars of the log and of the epochs, and the chain grids as pictures.

    epochs: columns epoch, iteration and numbers; grids: uint8 [3, H, W] by epoch. Steps are iterations. Equal contents
    give equal bytes: the wall time of an event is its iteration, and neither name nor file holds a host or a date.
    """
    from PIL import Image
    from tensorboard.compat.proto.event_pb2 import Event
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.summary.writer.record_writer import RecordWriter

    def scalars(row: dict, group: str) -> list:
        known = [name for name, value in row.items() if name not in ("iteration", "epoch") and np.isfinite(value)]
        return [Summary.Value(tag=f"{group}/{name}", simple_value=row[name]) for name in known]

    at = dict(zip(epochs["epoch"].tolist(), epochs["iteration"].tolist(), strict=True))
    values: dict[int, list] = {}
    for row in log.to_dict("records"):
        values.setdefault(int(row["iteration"]), []).extend(scalars(row, "train"))
    for row in epochs.to_dict("records"):
        values.setdefault(int(row["iteration"]), []).extend(scalars(row, "epoch"))
    for epoch, grid in grids.items():
        file = BytesIO()
        Image.fromarray(_rows(grid)).save(file, "PNG")
        image = Summary.Image(height=grid.shape[1], width=grid.shape[2], colorspace=3)
        image.encoded_image_string = file.getvalue()
        values.setdefault(at[epoch], []).append(Summary.Value(tag="chains", image=image))
    with replacing(Path(folder) / EVENTS) as temporary, open(temporary, "wb") as file:
        writer = RecordWriter(file)
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString(deterministic=True))
        for step, those in sorted(values.items()):
            event = Event(wall_time=step, step=step, summary=Summary(value=those))
            writer.write(event.SerializeToString(deterministic=True))
        writer.flush()


def _rows(grid: Tensor) -> np.ndarray:
    return grid.permute(1, 2, 0).contiguous().to(torch.uint8).numpy()
