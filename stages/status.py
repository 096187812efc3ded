"""Say what is running, what is up to date and what is not, also while an engine is at work.

`dvc status` itself refuses as long as a stage runs, because DVC locks the stage's outputs. This reads without that lock
and changes nothing; what a running stage is writing counts as not up to date.
"""

import argparse
import contextlib
import json
import sys
from pathlib import Path

RWLOCK = Path(".dvc/tmp/rwlock")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m stages.status", description=__doc__.splitlines()[0])
    parser.parse_args(argv)
    if not Path("dvc.yaml").is_file():
        print("error: dvc.yaml: no such file; run from the project's root folder", file=sys.stderr)
        return 1
    for process in running():
        print(f"running: {process}")
    changed = stale()
    for name, reasons in changed.items():
        print(f"not up to date: {name} ({reasons})")
    print(f"{len(changed)} jobs are not up to date" if changed else "everything is up to date")
    return 0


def running() -> list[str]:
    """Living processes that hold outputs, by DVC's own record."""
    import psutil

    try:
        writers = json.loads(RWLOCK.read_text()).get("write", {}).values()
    except (OSError, ValueError):  # no record, or one that is just being written
        return []
    found = {(entry["pid"], entry["cmd"]) for entry in writers if psutil.pid_exists(entry["pid"])}
    return [f"{cmd.rsplit('/', 1)[-1]} (process {pid})" for pid, cmd in sorted(found)]


def stale() -> dict[str, str]:
    """Jobs that DVC would run, with what changed, read without its locks."""
    import dvc.rwlock
    from dvc.repo import Repo

    locked = dvc.rwlock.rwlock
    dvc.rwlock.rwlock = lambda *_, **__: contextlib.nullcontext()
    try:
        with Repo(".") as repo:
            status = repo.status()
    finally:
        dvc.rwlock.rwlock = locked
    result = {}
    for name, entries in status.items():
        reasons: list[str] = []
        for entry in entries:
            if isinstance(entry, str):
                reasons.append(entry)
            else:
                reasons += [f"{path} {change}" for paths in entry.values() for path, change in paths.items()]
        more = f" and {len(reasons) - 2} more" if len(reasons) > 2 else ""
        result[name] = ", ".join(reasons[:2]) + more
    return result


if __name__ == "__main__":
    sys.exit(main())
