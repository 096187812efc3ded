"""One module per command of `python -m mebm`: its docstring is its help, whose first line the list of commands shows.

`arguments` adds its options to a parser, `run` does the work and prints; an error of the project's own that it raises
ends as one line.
"""

from mebm.commands import archive, compare, cost, mend, show, unite, verify

COMMANDS = {
    "compare": compare,
    "show": show,
    "cost": cost,
    "archive": archive,
    "verify": verify,
    "mend": mend,
    "unite": unite,
}
