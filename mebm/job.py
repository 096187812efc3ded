"""One job as Snakemake starts it: DVC's own single stage, in this process.

    python -m mebm.job [--force] ADDRESS

ADDRESS is DVC's name of the job, such as train@mjem_mnist. DVC decides whether it has to run, restores what its cache
holds, and keeps what is made. What DVC says after every stage about adding dvc.lock to git is left out, since each
of many jobs would say it.
"""

import logging
import sys

USAGE = 2


class _Unasked(logging.Filter):
    """Leaves out hints that are for people who type DVC's command themselves."""

    HINTS = ("To track the changes with git", "To enable auto staging", "Use `dvc push`")

    def filter(self, record: logging.LogRecord) -> bool:
        return not any(hint in record.getMessage() for hint in self.HINTS)


def main(argv: list[str]) -> int:
    force, addresses = "--force" in argv, [word for word in argv if word != "--force"]
    if len(addresses) != 1:
        print("error: usage: python -m mebm.job [--force] ADDRESS, such as train@mjem_mnist", file=sys.stderr)
        return USAGE
    from dvc.cli import main as dvc
    from dvc.ui import ui

    logging.getLogger("dvc.repo.scm_context").addFilter(_Unasked())
    write = ui.write
    ui.write = lambda *words, **options: None if _is_hint(words) else write(*words, **options)
    return dvc(["--wait-for-lock", "repro", "--single-item", *(["--force"] if force else []), addresses[0]])


def _is_hint(words: tuple) -> bool:
    return any(hint in str(word) for word in words for hint in _Unasked.HINTS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
