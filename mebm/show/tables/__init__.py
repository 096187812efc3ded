"""Tables of a suite's results: one module per table, found by its name. They format and never compute a metric.

A module holds TITLE, CAPTION, COLUMNS, and whether BASELINES stand below the runs: the initial distribution and
held-out images. Its function `rows` makes rows of text, a cell per column, from results, the data sets' names in
publications, and the number of decimals. mebm/show/rows.py has `Result` and the pieces that tables share. A suite
lists its tables by name; `start` is made for every suite, by a stage of its own. docs/extending.md adds a table.
"""

from types import ModuleType

import pandas as pd

from mebm.registry import Registry
from mebm.show.rows import Result

TABLES = Registry("mebm.show.tables")


def module(name: str) -> ModuleType:
    """The module of a table. Raises KeyError for a name that is none."""
    return TABLES.module(name)


def make(name: str, results: list[Result], titles: dict[str, str], digits: int) -> pd.DataFrame:
    """The table of that name. titles: the data sets' names in publications, by their names in the suite."""
    table = module(name)
    return pd.DataFrame(table.rows(results, titles, digits), columns=table.COLUMNS)
