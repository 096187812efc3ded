"""Results of jobs that the suite no longer has, in the folders that tables and the report read as a whole."""

import shutil
from functools import cache
from pathlib import Path, PurePosixPath

from mebm.archive import folder_md5, md5, read_lock
from mebm.pipeline import Graph

COLLECTED = ("data/compared", "results/summary", "results/baseline", "results/analyses", "results/tables")


def remove_strays(graph: Graph, root: Path) -> list[str]:
    """Remove what is recorded as an output, is none of the suite's, and lies in such a folder. Returns the paths.

    DVC hashes those folders with all that is in them, so a leftover of another suite would make tables stale in every
    clone that does not have it. Only what DVC's cache holds is removed: going back to the other suite restores it.
    Raises DataError for a lock file that cannot be read.
    """
    lock = root / "dvc.lock"
    if not lock.is_file():
        return []
    stages = read_lock(lock)["stages"]
    own = {out for job in graph.jobs.values() for out in job.outs}
    removed = []
    for entry in (entry for stage in stages.values() for entry in stage.get("outs", [])):
        out, path = entry["path"], root / entry["path"]
        folders = {str(parent) for parent in PurePosixPath(out).parents}
        if out in own or not folders & set(COLLECTED) or not path.exists() or not _is_cached(root, path, entry["md5"]):
            continue
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        removed.append(out)
        for parent in path.parents:
            if parent.relative_to(root).as_posix() in COLLECTED or any(parent.iterdir()):
                break
            parent.rmdir()
    return removed


def _is_cached(root: Path, path: Path, recorded: str) -> bool:
    """Whether a path still has the content that was recorded, and DVC's cache holds it."""
    if not (_cache(root) / recorded[:2] / recorded[2:]).is_file():
        return False
    if path.is_file():
        return md5(path.read_bytes()) == recorded
    files = (file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".snakemake"))
    return folder_md5({file.relative_to(path).as_posix(): file.read_bytes() for file in files}) == recorded


@cache
def _cache(root: Path) -> Path:
    """Where DVC keeps contents by MD5, which its configuration can move."""
    from dvc.repo import Repo

    with Repo(str(root)) as repo:
        return Path(repo.cache.local.path)
