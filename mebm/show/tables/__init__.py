"""Tables of a suite's results: one module per table, found by its name. They format and never compute a metric.

A module holds TITLE, COLUMNS (each with its heading in print and its names in CSV), and whether BASELINES stand below
the runs: the initial distribution and held-out images. Its function `rows` makes rows, a cell per column, from
results, the data sets' names in publications, and the number of decimals; `caption` says, from the same results, by
what they were measured. mebm/show/rows.py has `Result` and the pieces that tables share. A suite lists its tables by
name; `start` is made for every suite, by a stage of its own. docs/extending.md adds a table.
"""

from dataclasses import dataclass
from types import ModuleType

import pandas as pd

from mebm.registry import Registry
from mebm.show.rows import DASH, OPTIONAL, Cell, Result

TABLES = Registry("mebm.show.tables")


@dataclass(frozen=True)
class Made:
    """A table in print, as text, and the numbers behind it in full, None where there is none."""

    printed: pd.DataFrame
    numbers: pd.DataFrame
    caption: str


def module(name: str) -> ModuleType:
    """The module of a table. Raises KeyError for a name that is none."""
    return TABLES.module(name)


def make(name: str, results: list[Result], titles: dict[str, str], digits: int) -> Made:
    """The table of that name. titles: the data sets' names in publications, by their names in the suite."""
    table = module(name)
    rows = [
        [cell if isinstance(cell, Cell) else Cell(cell, (None if cell in ("", DASH) else cell,)) for cell in row]
        for row in table.rows(results, titles, digits)
    ]
    printed = pd.DataFrame([[cell.text for cell in row] for row in rows], columns=[head for head, *_ in table.COLUMNS])
    unused = [head for head in OPTIONAL if rows and head in printed and set(printed[head]) <= {"", DASH}]
    names = [name for _, *names in table.COLUMNS for name in names]
    values = [[value for cell in row for value in cell.values] for row in rows]
    numbers = pd.DataFrame(values, columns=names, dtype=object)  # so that whole numbers beside gaps stay whole
    return Made(printed.drop(columns=unused), numbers, table.caption(results, titles))
