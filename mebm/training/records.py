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
LOG_COLUMNS = ("iteration", "epoch", "lr", *RECORDED, "x_neg_min", "x_neg_max")
EPOCH_COLUMNS = ("epoch", "iteration", "accuracy", "loss")

Row = dict[str, float]


def recorded(terms: dict[str, Tensor], device: torch.device) -> Tensor:
    """The means of an iteration's terms in the order of RECORDED, [8], 0 for those that it does not have."""
    zero = torch.zeros((), device=device)
    return torch.stack([terms.get(key, zero).detach().float().mean() for key in RECORDED])


class Log:
    """Sums of what was recorded since the last row, on the device, so that it is waited for only once per row.

    rows, epochs: the rows so far, by column.
    """

    def __init__(self, device: torch.device):
        self.rows: list[Row] = []
        self.epochs: list[Row] = []
        self.sums = torch.zeros(len(RECORDED), device=device)
        self.interval = 0  # iterations in the sums

    def add(self, values: Tensor) -> None:
        """Add an iteration's values, those of `recorded`."""
        self.sums += values
        self.interval += 1

    def close(self, row: Row, means: Tensor, x_neg: Tensor | None) -> None:
        """Add a row: its own columns, the interval's means, and the range of the last samples if there are any."""
        row = row | dict(zip(RECORDED, means.tolist(), strict=True))
        if x_neg is not None:
            row |= {"x_neg_min": float(x_neg.min()), "x_neg_max": float(x_neg.max())}
        self.rows.append(row)
        self.sums.zero_()
        self.interval = 0
