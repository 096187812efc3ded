"""Watches a run for divergence, which ends it, and for values that are merely unusual (docs/method.md, Divergence)."""

import torch
from torch import Tensor

from mebm.errors import Diverged
from mebm.training.records import RECORDED, Row

LOSS_LIMIT = 1e5  # an iteration with |L| above it has diverged
SATURATED_LIMIT = 0.25  # share of the samples' values at an end of their range, above that of the data


def out_of_bounds(loss: Tensor) -> Tensor:
    """Whether |L| is above the limit or not finite, a scalar on the loss's device."""
    return ~(loss.detach().abs() <= LOSS_LIMIT)


class Watch:
    """Looks for divergence in every iteration's numbers without making a GPU wait: those are read one later."""

    def __init__(self, device: torch.device):
        self._device, self._pending = device, None

    def look(self, iteration: int, values: Tensor, x_neg: Tensor | None) -> None:
        """Raises Diverged for an iteration of which a value recorded or a sample is not finite, or |L| is too large.

        On a GPU for the iteration before: this one's numbers are still on their way.
        """
        samples = torch.zeros((), device=self._device) if x_neg is None else 0 * x_neg.sum()
        previous = self._pending
        host = torch.cat([values, samples[None]]).to("cpu", non_blocking=True)
        ready = None
        if self._device.type == "cuda":
            ready = torch.cuda.Event()
            ready.record()
        self._pending = (iteration, host, ready)
        if self._device.type == "cuda":
            self._check(previous)
        else:
            self.finish()

    def finish(self) -> None:
        """Wait for what has not been checked yet. Raises Diverged."""
        pending, self._pending = self._pending, None
        self._check(pending)

    def _check(self, pending: tuple | None) -> None:
        if pending is None:
            return
        iteration, host, ready = pending
        if ready is not None:
            ready.synchronize()
        values = dict(zip(RECORDED, host.tolist(), strict=False))
        if bool(torch.isfinite(host).all()) and abs(values["loss"]) <= LOSS_LIMIT:
            return
        self._pending = None
        raise Diverged(
            f"training diverged in iteration {iteration}: loss {values['loss']:.4g}, energies "
            f"{values['energy_pos']:.4g} (data) and {values['energy_neg']:.4g} (samples), gradient norms "
            f"{values['grad_norm']:.4g} (images) and {values['weight_grad_norm']:.4g} (weights); lower train.lr, raise "
            "train.l2_coeff, change train.seed, or set train.on_divergence to restart",
            iteration,
            values,
        )


def unusual(rows: list[Row]) -> str:
    """A warning of what the last row begins to show; empty where all is usual.

    Energy gap or gradient norms far outside those of the 50 rows before: more than ten times the median absolute
    deviation from their median, and than a tenth of the median, where there are at least 20 rows to compare with. Or
    samples of which more is saturated than SATURATED_LIMIT allows, which was not so in the row before: pictures turn to
    pure colours.
    """
    *before, row = rows[-51:] if rows else [{}]
    if (warning := saturated(row)) and not (before and saturated(before[-1])):
        return warning
    if len(before) < 20:
        return ""
    for key in ("energy_gap", "grad_norm", "weight_grad_norm"):
        values = torch.tensor([earlier[key] for earlier in before], dtype=torch.float64)
        middle = float(values.median())
        spread = float((values - middle).abs().median())
        if abs(row[key] - middle) > 10 * spread + 0.1 * abs(middle):
            return f"{key} is {row[key]:.4g} in iteration {row['iteration']}, usually {middle:.4g} ± {spread:.2g}"
    return ""


def saturated(row: Row) -> str:
    """A warning where much more of a row's samples than of the data is black, white or a pure colour."""
    samples, data = row.get("x_neg_saturated", 0.0), row.get("x_pos_saturated", 0.0)
    if samples <= data + SATURATED_LIMIT:
        return ""
    return (
        f"{100 * samples:.0f} % of the samples' pixel values are at an end of their range in iteration "
        f"{int(row['iteration'])}, of the data {100 * data:.0f} %: the chains turn to pure colours; look at their "
        "pictures, lower train.lr or step_size, or raise l2_coeff"
    )
