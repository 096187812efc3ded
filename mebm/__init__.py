"""mebm: energy-based image models with an informative start (M-EBM, M-JEM).

`mebm.load` opens a trained run (docs/use.md). Every command imports this package, so it imports nothing until asked.
"""

from typing import Any

__all__ = ["MebmError", "TrainedRun", "load"]


def __getattr__(name: str) -> Any:
    if name == "MebmError":
        from mebm.errors import MebmError

        return MebmError
    if name in __all__:
        from mebm import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
