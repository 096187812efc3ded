"""`python -m mebm COMMAND`: the project's commands besides `snakemake` and `dvc repro`."""

import argparse
import difflib
import os
import signal
import sys

from mebm import terminal


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit status.

    That is 1 for an error of the project's own, 2 for a wrong command line, and 141 where nobody reads the output any
    more, as for any program that SIGPIPE ends.
    """
    from mebm.commands import COMMANDS
    from mebm.errors import MebmError, one_line, shown

    argv = sys.argv[1:] if argv is None else argv
    if argv and not argv[0].startswith("-") and argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1, cutoff=0.5)
        cure = f"did you mean `{near[0]}`?" if near else "`python -m mebm --help` lists them"
        print(f"error: {shown(argv[0])} is not a command; {cure}", file=sys.stderr)
        return 2
    parser = argparse.ArgumentParser(prog="python -m mebm", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        text = command.__doc__
        own = commands.add_parser(
            name,
            help=text.splitlines()[0].rstrip("."),
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        command.arguments(own)
        own.set_defaults(run=command.run, parser=own)
    try:
        try:
            args, unknown = parser.parse_known_args(argv)
            if unknown:
                args.parser.error(f"unrecognized arguments: {' '.join(unknown)}")  # with the usage of this command
            args.run(args)
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except BrokenPipeError:  # whoever read the output has had enough, as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python writes at its end
        return 128 + signal.SIGPIPE
    except (MebmError, OSError) as error:
        print(f"error: {one_line(_words(error))}", file=sys.stderr)
        return 1
    return 0


def _words(error: Exception) -> object:
    """The words of a system error, which name its file as our own errors do."""
    return f"{error.filename}: {error.strerror}" if getattr(error, "filename", None) else error


if __name__ == "__main__":
    terminal.prepare()
    sys.exit(main())
