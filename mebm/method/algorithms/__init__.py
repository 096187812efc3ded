"""Algorithms of training by name: `train.algorithm` names a module here, whose ALGORITHM it is.

A module is all that another one needs (docs/extending.md). A run's record names the module that it uses, so that an
edit of one makes no other run stale.
"""

from mebm.method.iteration import Algorithm
from mebm.registry import Registry

ALGORITHMS = Registry("mebm.method.algorithms")


def algorithm(name: str) -> Algorithm:
    """The algorithm of that name. Raises KeyError for a name that is none."""
    return ALGORITHMS.module(name).ALGORITHM
