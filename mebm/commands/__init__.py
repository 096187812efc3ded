"""One module per command of `python -m mebm`. Its docstring is its help; the list of commands shows the first line.

`arguments` adds its options to a parser. `run` does the work and prints. If it raises an error of the project's own,
the command prints that as one line.
"""

from mebm.commands import archive, artifact, compare, cost, croissant, export, mend, plots, show, unite, verify

COMMANDS = {
    "compare": compare,
    "show": show,
    "plots": plots,
    "cost": cost,
    "export": export,
    "archive": archive,
    "verify": verify,
    "croissant": croissant,
    "artifact": artifact,
    "mend": mend,
    "unite": unite,
}
