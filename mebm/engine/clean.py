"""What was made in this folder, with its size, and the removal of one part of it: `make clean` and `make clean-<part>`.

    python -m mebm.engine.clean [results | cache | environment]

Without a part it lists all three and removes nothing. What a user placed here stays: downloads, pictures, files in git.
It needs nothing but Python, since the environment may be damaged or gone.
"""

import os
import shutil
import sys
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mebm import terminal
from mebm.engine import locks
from mebm.errors import DataError, MebmError, one_line

WHAT = {
    "results": "results, prepared data, logs, and saved states of training",
    "cache": "every version of the results that DVC keeps, and what the engines remember",
    "environment": "installed packages and what tools keep",
}
AFTERWARDS = {
    "results": "DVC's cache keeps what was finished: `dvc checkout` brings it back, or the next run",
    "cache": "what lies in results and data is the only copy now, unless a remote has one",
    "environment": "`make install` makes it again",
}
# Of results: what is in git, models with cards that a user may have edited, and bundles of old versions
STAYS = ("README.md", ".gitkeep", "export", "*.zip")
CODE = ("mebm", "stages", "tests", "benchmarks")
TOOLS = (".venv*", "*.egg-info", ".pytest_cache", ".ruff_cache", ".import_linter_cache")


def found(part: str) -> list[Path]:
    """Files and folders of a part, those that are here."""
    here = Path()
    if part == "results":
        sets = [folder for pattern in ("data/*/", "data/compared/*/") for folder in here.glob(pattern)]
        sets = [folder for folder in sets if (folder / "manifest.json").is_file()]  # others may be the user's own
        paths = [*(path for path in here.glob("results/*") if not any(map(path.match, STAYS))), *sets]
        paths += [Path("logs"), Path(".state"), Path("dvc_plots")]
    elif part == "cache":
        paths = [Path(".dvc/cache"), Path(".dvc/tmp"), Path(".snakemake")]
    else:
        paths = [path for pattern in TOOLS for path in here.glob(pattern)]
        paths += [path for folder in CODE for path in here.glob(f"{folder}/**/__pycache__")]
    return sorted(path for path in paths if os.path.lexists(path))


def size(paths: Iterable[Path]) -> int:
    """Bytes that files take on disk, those with several names once. A link counts for itself."""
    files: dict[tuple[int, int], int] = {}

    def count(path: str | Path) -> None:
        with suppress(OSError):  # it went meanwhile
            status = os.lstat(path)
            files[status.st_dev, status.st_ino] = status.st_blocks * 512

    for path in paths:
        count(path)
        for folder, folders, names in os.walk(path):
            for name in (*folders, *names):
                count(os.path.join(folder, name))
    return sum(files.values())


def shown(n: int) -> str:
    return f"{n / 1e9:.1f} GB" if n >= 1e9 else f"{n / 1e6:.1f} MB"


def overview() -> None:
    """Print what there is of each part, and by which name it is removed."""
    for part, what in WHAT.items():
        print(f"make clean-{part:12} {shown(size(found(part))):>9}  {what}")
    print("nothing was removed")


def remove(part: str) -> None:
    """Remove a part, and say what it was. Raises DataError or StateError where something still needs it."""
    locks.refuse_beside_snakemake()
    with suppress(ImportError):  # without psutil there is no environment in which anything could be at work
        locks.refuse_beside_others()
    paths = found(part)
    if part == "cache":
        _refuse_links(".dvc/cache")
    total = size(paths)
    for path in paths:
        print(f"{shown(size([path])):>9}  {one_line(path)}")
    for path in paths:
        path.unlink() if path.is_symlink() or path.is_file() else shutil.rmtree(path)
    print(f"removed {shown(total)}: {WHAT[part]}; {AFTERWARDS[part]}")


def _refuse_links(cache: str) -> None:
    """Raises DataError where results are links into the cache, as they are with `dvc config cache.type symlink`."""
    target = os.path.realpath(cache)
    for folder in ("data", "results"):
        for where, _, names in os.walk(folder):
            for name in names:
                path = os.path.join(where, name)
                if os.path.islink(path) and os.path.realpath(path).startswith(target + os.sep):
                    raise DataError(f"{path}: is a link into {cache}, and would be lost; `make clean-results` first")


def main(argv: list[str]) -> int:
    if len(argv) > 1 or not set(argv) <= set(WHAT):
        print(f"error: {' '.join(argv)}: expected one of {', '.join(WHAT)}", file=sys.stderr)
        return 2
    try:
        if not Path("dvc.yaml").is_file():
            raise DataError("dvc.yaml: no such file; run this in the project's folder")
        remove(argv[0]) if argv else overview()
    except MebmError as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {one_line(error.filename)}: {error.strerror}; the rest is still there", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    terminal.prepare()
    sys.exit(main(sys.argv[1:]))
