"""Algorithms of training by name: `train.algorithm` names a module here, whose ALGORITHM it is.

To add one, write a module with an ALGORITHM, and add its name to `Train.algorithm` (mebm/settings/schema.py). Nothing
else lists them. A run's record names the module that it uses, so that an edit of one makes no other run stale.
"""

from importlib import import_module

from mebm.method.iteration import Algorithm


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name; names are checked where settings are read."""
    return import_module(f"{__name__}.{name}").ALGORITHM
