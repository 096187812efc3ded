"""What training records: rows of log.csv, each a mean over several iterations, and rows of epochs.csv."""

import torch
from torch import Tensor

RECORDED = (
    "energy_pos",
    "energy_neg",
    "energy_gap",
    "energy_l2",
    "cross_entropy",
    "loss",
    "grad_norm",
    "weight_grad_norm",
)
LOG_COLUMNS = ("iteration", "epoch", "lr", *RECORDED, "x_neg_min", "x_neg_max", "x_neg_saturated", "x_pos_saturated")
EPOCH_COLUMNS = ("epoch", "iteration", "accuracy", "loss")
VALIDATION_COLUMNS = ("validation_accuracy", "validation_loss")  # also, where a run holds images out for them

Row = dict[str, float]


def recorded(terms: dict[str, Tensor], device: torch.device) -> Tensor:
    """The means of an iteration's terms in the order of RECORDED, [8], 0 for those that it does not have."""
    zero = torch.zeros((), device=device)
    return torch.stack([terms.get(key, zero).detach().float().mean() for key in RECORDED])


def saturated_bytes(images: Tensor, n: int = 1000) -> float:
    """Share of the first n images' values, uint8 [N, C, H, W], that are 0 or 255."""
    first = images[:n]
    return float(((first == 0) | (first == 255)).float().mean())


class Log:
    """Sums of what was recorded since the last row, on the device, so that it is waited for only once per row.

    rows, epochs: the rows so far, by column. data_saturated: share of the data's pixel values at an end of their range,
    beside which that of the samples stands.
    """

    def __init__(self, device: torch.device, data_saturated: float):
        self._data_saturated = data_saturated
        self.rows: list[Row] = []
        self.epochs: list[Row] = []
        self.sums = torch.zeros(len(RECORDED), device=device)
        self.interval = 0  # iterations in the sums

    def add(self, values: Tensor) -> None:
        """Add an iteration's values, those of `recorded`."""
        self.sums += values
        self.interval += 1

    def close(self, row: Row, means: Tensor, x_neg: Tensor | None) -> None:
        """Add a row: its own columns, the interval's means, and of the last samples, if any, range and saturation."""
        row = row | dict(zip(RECORDED, means.tolist(), strict=True))
        if x_neg is not None:
            saturated = float((x_neg.abs() == 1).float().mean())
            row |= {"x_neg_min": float(x_neg.min()), "x_neg_max": float(x_neg.max())}
            row |= {"x_neg_saturated": saturated, "x_pos_saturated": self._data_saturated}
        self.rows.append(row)
        self.sums.zero_()
        self.interval = 0
