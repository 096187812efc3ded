"""Pictures beside the logs, for people who watch a training: its chains now, and where it diverged.

They are no artifact, so training does not depend on what draws them (mebm/engine/code.py does not follow this module).
The pictures that are kept are drawn by the stage `curves`, from the chains that training copies.
"""

from pathlib import Path

from torch import Tensor

from mebm.data.images import unit_to_bytes
from mebm.figures.grids import save_grid

SHOWN, COLUMNS = 100, 10


def save_chains(path: Path, chains: Tensor) -> None:
    """The first chains (float32 [N, C, H, W] in [-1, 1], on any device) as a PNG; NaN is grey, infinity an extreme."""
    shown = chains[:SHOWN].detach().cpu().nan_to_num(0, 1, -1).clamp(-1, 1)
    save_grid(path, unit_to_bytes(shown), COLUMNS)
