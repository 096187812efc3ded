"""A project whose jobs are recorded as done, without the work: made-up outputs with their hashes in dvc.lock."""

import json
from pathlib import Path

import yaml

from mebm.engine import records
from mebm.engine.graph import RECORDS, Graph
from mebm.engine.hashes import Hashes, md5
from mebm.settings.suite import load_params


def record_as_done(folder: Path) -> None:
    """Write records, a line for every output, DVC's lock file, and all contents into DVC's cache."""
    settings = load_params(folder / "params.yaml")
    graph = Graph(folder / "dvc.yaml", settings)
    folders = {out for job in graph.jobs.values() for out in job.outs if not Path(out).suffix}
    contents = {f"{RECORDS}/{name}": text for name, text in records.texts(settings, folder).items()}
    contents |= {
        f"{out}/file" if out in folders else out: out
        for job in graph.jobs.values()
        for out in job.outs
        if out != RECORDS
    }

    def store(text: str, ending: str = "") -> None:
        hash_ = md5(text.encode()) + ending
        stored = folder / ".dvc" / "cache" / "files" / "md5" / hash_[:2] / hash_[2:]
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_text(text)

    for name, text in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        store(text)
    hashes = Hashes(folder)
    for out in folders:  # without its list, DVC would make the folder anew
        listed = [{"md5": hashes.of(f"{out}/{name}"), "relpath": name} for name in hashes.files(out)]
        store(json.dumps(listed, sort_keys=True), ".dir")
    stages = {
        job.address: {
            "cmd": job.cmd,
            **{
                kind: [{"path": path, "hash": "md5", "md5": hashes.of(path)} for path in paths]
                for kind, paths in (("deps", job.deps), ("outs", job.outs))
            },
        }
        for job in graph.jobs.values()
    }
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}, sort_keys=False))
