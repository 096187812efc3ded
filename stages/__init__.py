"""The stages of dvc.yaml: one thin command line per stage, `python -m stages.NAME`, and what they share (cli)."""

import sys

from mebm import terminal

if sys.argv[0] == "-m":  # as Python has it while it looks for the module to run; not when another program imports it
    terminal.prepare()
