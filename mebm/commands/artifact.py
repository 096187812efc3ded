"""Print docs/artifact.md: every claim, the command that checks it, what to expect, how long it takes, where it lands.

    python -m mebm artifact > docs/artifact.md

A test compares the committed page with what this prints.
"""

import argparse
from pathlib import Path


def arguments(parser: argparse.ArgumentParser) -> None:
    del parser  # no options


def run(args: argparse.Namespace) -> None:
    from mebm.show.artifact import artifact  # slow: PyTorch

    del args
    print(artifact(Path()), end="")
