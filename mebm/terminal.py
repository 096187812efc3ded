"""What every command prepares: output on terminals that lack a character, signals that stop it, matplotlib's folder.

Imports little and is prepared before other imports, so that a command that is stopped while it imports says so too.
"""

import codecs
import contextlib
import os
import signal
import sys

from mebm.errors import NO_MEMORY, DataError, lacks_memory
from mebm.folders import own_folder

_PLAIN = {"↓": "v", "↑": "^", "±": "+-", "–": "-", "−": "-", "×": "x", "…": "...", "∞": "inf", "\u202f": " "}
_came = 0  # number of the signal that ends this command


class Interrupted(SystemExit):
    """SIGINT or SIGTERM came and was told; `code` is the exit status, 130 or 143."""


def prepare() -> None:
    """Set up this process as a command: its streams, its signals, and the folder that matplotlib keeps things in."""
    codecs.register_error("plain", plain)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="plain")
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # and not ignored, as behind nohup
        signal.signal(signal.SIGINT, _interrupt)
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _interrupt)
    sys.excepthook, sys.unraisablehook = _uncaught, _unraisable
    # matplotlib warns where the home cannot be written, and a user's own settings would change our figures
    with contextlib.suppress(DataError):  # it then makes do with a temporary folder, and says so
        os.environ.setdefault("MPLCONFIGDIR", str(own_folder("matplotlib")))


def plain(error: UnicodeError) -> tuple[str, int]:
    """What stands for a character that a terminal's encoding lacks: the like in ASCII, or its number."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    parts = error.object[error.start : error.end]
    return "".join(_PLAIN.get(c) or c.encode("ascii", "backslashreplace").decode() for c in parts), error.end


def _interrupt(number: int, _) -> None:
    global _came
    _came = number
    for again in (signal.SIGINT, signal.SIGTERM):
        signal.signal(again, signal.SIG_DFL)  # which ends the command at once
    by = "" if number == signal.SIGINT else f" by {signal.Signals(number).name}"
    if os.environ.get("RANK", "0") == "0":  # of several processes of one run the first one speaks
        new_line = "\n" if sys.stderr and sys.stderr.isatty() else ""  # a progress bar may stand there
        os.write(2, f"{new_line}error: interrupted{by}; run the same command again\n".encode())
    raise Interrupted(128 + number)


def _uncaught(kind: type, error: BaseException, trace: object) -> None:
    """Some packages make another error of what comes while they are imported, and a library may lack the memory."""
    if _came:
        os._exit(128 + _came)
    if isinstance(error, Exception) and lacks_memory(error):
        print(f"error: {NO_MEMORY}", file=sys.stderr)
        os._exit(1)
    sys.__excepthook__(kind, error, trace)


def _unraisable(found: "sys.UnraisableHookArgs") -> None:
    """What comes while Python cleans up behind a frame would be lost, and the command would go on."""
    if isinstance(found.exc_value, Interrupted):
        os._exit(128 + _came)
    sys.__unraisablehook__(found)
