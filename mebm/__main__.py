"""`python -m mebm COMMAND`: what people type besides `snakemake` and `dvc repro`."""

import sys

from mebm.engine import mend, unite

COMMANDS = {"mend": mend.main, "unite": unite.main}


def main(argv: list[str]) -> int:
    if not argv or argv[0] not in COMMANDS:
        print(f"error: usage: python -m mebm {'|'.join(COMMANDS)}", file=sys.stderr)
        return 2
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
