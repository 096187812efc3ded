"""Leftover files of runs that the suite does not have, in folders that a job reads as a whole.

DVC hashes such a folder with everything in it. A leftover of a trial run would be recorded as part of a result, and
make the result stale in every clone without that file. So before a job works, it removes leftovers from folders that it
reads.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

from mebm.engine.graph import PARAMS_STAGE, Graph
from mebm.engine.hashes import Hashes
from mebm.engine.lockfile import object_in, objects_folder
from mebm.errors import DataError


def remove_strays(graph: Graph, address: str, root: Path = Path(".")) -> list[str]:
    """Remove files that no job of the graph makes from the folders that a job reads. Returns their paths.

    Only what DVC's cache holds is removed: going back to a version that has it restores it. Raises DataError, and
    removes nothing, for a file that is not in the cache, because it could be somebody's own.
    """
    hashes, objects = Hashes(root), objects_folder(root)
    strays = _strays(graph, address, root, hashes.ignored)
    for path in strays:
        hash_ = hashes.of(path)
        if hash_ is None:  # another job, which reads the same folder, has removed it
            continue
        if not object_in(objects, hash_).is_file():
            raise DataError(
                f"{path}: no job of this suite makes it, and DVC's cache does not hold it, but {address} reads the "
                "folder as a whole; move the file elsewhere"
            )
    for path in strays:
        (root / path).unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or gone already
            for folder in Path(path).parents:
                if folder.as_posix() in graph.folders:
                    break
                (root / folder).rmdir()
    return strays


def _strays(graph: Graph, address: str, root: Path, ignored: Callable[[str], object]) -> list[str]:
    own, found = {out for job in graph.jobs.values() for out in job.outs}, []
    folders = [dep for dep in graph.jobs[address].deps if dep in graph.folders] if address != PARAMS_STAGE else []
    for dep in folders:
        for folder, inside, names in os.walk(root / dep):
            inside[:] = [name for name in inside if not ignored(name)]
            for name in names:
                path = PurePosixPath(Path(folder, name).relative_to(root).as_posix())
                if not ignored(name) and not own & {str(path), *map(str, path.parents)}:
                    found.append(str(path))
    return sorted(found)
