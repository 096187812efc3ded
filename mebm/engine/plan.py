"""Which jobs are stale, and why: what DVC would say after its stage `params`, computed in memory.

A job is stale when it is not in the lock file, when its command, its record or another input differs from the lock
file, when its outputs are missing or changed, or when it reads what a stale job makes. Neither an engine's memory of
earlier runs nor the time of any file counts. Only hashes are written, for the next time.
"""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from mebm.engine import code, records
from mebm.engine.graph import PARAMS_STAGE, RECORDS, Graph, Job
from mebm.engine.hashes import Hashes, md5
from mebm.engine.lockfile import LOCK, cache_folder, hashes_in, object_in, objects_folder, read_lock
from mebm.errors import SHOWN as SHOWN_VALUE
from mebm.errors import clipped
from mebm.settings.suite import Params

SHOWN = 3  # names in a line of an explanation


@dataclass
class Plan:
    """Stale jobs by address, in the order of the pipeline.

    own: why a job is stale by itself; follows: the jobs whose new outputs it waits for; cached: those that DVC would
    bring back from its cache instead of running them.
    """

    own: dict[str, list[str]] = field(default_factory=dict)
    follows: dict[str, list[str]] = field(default_factory=dict)
    cached: set[str] = field(default_factory=set)

    @property
    def stale(self) -> list[str]:
        return [*self.own, *(address for address in self.follows if address not in self.own)]

    def text(self, among: Iterable[str]) -> str:
        """What a person reads before jobs start: a line for each reason, with the jobs that it makes stale."""
        among = set(among)
        jobs: dict[tuple[str, bool], list[str]] = {}
        for address, reasons in self.own.items():
            if address in among and address != PARAMS_STAGE:
                for reason in reasons[:SHOWN]:
                    jobs.setdefault((reason, address in self.cached), []).append(address)
        lines = []
        for (reason, cached), names in sorted(jobs.items(), key=lambda item: not item[1][0].startswith("train@")):
            names = sorted(names, key=lambda name: not name.startswith("train@"))
            more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            end = "; DVC has this result and brings it back from its cache" if cached else ""
            lines.append(f"{', '.join(names[:SHOWN])}{more}: {reason}{end}")
        following = [address for address in self.follows if address in among and address not in self.own]
        if not lines and PARAMS_STAGE in self.own and PARAMS_STAGE in among and not among & set(self.follows):
            lines.append("no result is stale; only `params` runs, to record an edit")
        if following and lines:
            lines.append(f"{len(following)} more depend on these, and run if their inputs change")
        return "".join(f"{line}\n" for line in lines)


def make_plan(
    graph: Graph,
    params: Params,
    text: str,
    root: Path = Path("."),
    forced: Iterable[str] = (),
    lock: dict[str, dict] | None = None,
) -> Plan:
    """The plan for a parameter file whose content is `text`, in the project's folder.

    forced: addresses of jobs that count as stale whatever their state; lock: what the lock file says of every job, by
    default what lies in the folder. Raises DataError for a lock file or an input that cannot be read.
    """
    lock = read_lock(root / LOCK) if lock is None else lock
    planner = _Planner(graph, params, text, root, frozenset(forced), lock)
    plan = planner.plan()
    planner.hashes.save()
    code.save(root.resolve())
    return plan


class _Planner:
    def __init__(
        self,
        graph: Graph,
        params: Params,
        text: str,
        root: Path,
        forced: frozenset[str],
        lock: dict[str, dict],
    ):
        self.graph, self.root, self.text, self.forced, self.lock = graph, root, text, forced, lock
        self.records = records.texts(params, root.resolve())
        self.hashes = Hashes(root)
        self.objects = objects_folder(root)
        self.maker = {out: job.address for job in graph.jobs.values() for out in job.outs}

    def plan(self) -> Plan:
        plan, stale = Plan(), set()
        for job in self.graph.ordered():
            follows = sorted(set(self._makers(job)) & stale)
            own, now = self._reasons(job, stale)
            if forced := job.address in self.forced:
                own = [*own, "computed anew, as asked"]
            if own:
                plan.own[job.address] = own
                if not follows and not forced and self._is_cached(job, now):
                    plan.cached.add(job.address)
            if follows:
                plan.follows[job.address] = follows
            if own or follows:
                stale.add(job.address)
        return plan

    def _makers(self, job: Job) -> Iterable[str]:
        """Jobs that make what a job reads. Records are known already, so nothing follows from their job."""
        for dep in () if job.stage == PARAMS_STAGE else self.graph.inputs(job.stage, job.name):
            path = PurePosixPath(dep)
            for part in (path, *path.parents):
                if (address := self.maker.get(str(part))) and address != PARAMS_STAGE:
                    yield address

    def _reasons(self, job: Job, stale: set[str]) -> tuple[list[str], dict[str, str]]:
        """Why a job is stale by itself, and the hashes of its inputs now, by path; stale inputs are left out."""
        said = self.lock.get(job.address)
        locked = {kind: hashes_in(said or {}, kind) for kind in ("deps", "outs")}
        reasons, now = [], {}
        for dep in job.deps:
            if any(self.maker.get(path) in stale for path in self._inside(dep)):
                continue
            hash_ = self._hash(dep)
            if hash_ is None:
                reasons.append(f"{dep} is missing")
                continue
            now[dep] = hash_
            if said and dep in locked["deps"] and hash_ != locked["deps"][dep]:
                reasons += self._differences(dep, locked["deps"][dep])
        if not said:
            return ["is not in dvc.lock"], now
        if said["cmd"] != job.cmd:
            reasons.append("its command has changed")
        if set(locked["deps"]) != set(job.deps) or set(locked["outs"]) != set(job.outs):
            reasons.append("it reads or makes other files than recorded")
        for out in set(job.outs) & set(locked["outs"]):
            hash_ = self.hashes.of(out)
            if hash_ is None:
                reasons.append(f"{out} is missing")
            elif hash_ != locked["outs"][out]:
                reasons.append(f"{out} is not as recorded")
        return reasons, now

    def _inside(self, dep: str) -> list[str]:
        return [dep, *(out for out in self.maker if out.startswith(f"{dep}/"))] if dep in self.graph.folders else [dep]

    def _hash(self, dep: str) -> str | None:
        if dep == "params.yaml":
            return md5(self.text.encode())
        path = PurePosixPath(dep)
        if str(path.parent) == RECORDS and path.name in self.records:
            return md5(self.records[path.name].encode())
        return self.hashes.of(dep)

    def _differences(self, dep: str, before: str) -> list[str]:
        """What differs between a job's record now and then; of another input that it does."""
        name = PurePosixPath(dep).name
        if not dep.startswith(f"{RECORDS}/"):
            return [f"{dep} has changed"]
        old = self._content(before)
        if old is None or name == records.ALL:
            return ["a parameter or its code has changed" if name != records.ALL else "a parameter has changed"]
        try:
            one, two = (_flat(yaml.safe_load(text)) for text in (old, self.records[name]))
        except (yaml.YAMLError, AttributeError):
            return ["a parameter or its code has changed"]
        return differences(one, two)

    def _content(self, hash_: str) -> str | None:
        """A small file's content by its hash, from DVC's cache."""
        try:
            return object_in(self.objects, hash_).read_text(encoding="utf-8")
        except (OSError, ValueError):
            return None

    def _is_cached(self, job: Job, now: dict[str, str]) -> bool:
        """Whether DVC's cache knows a run of this command on these inputs, and holds what it made."""
        if set(now) != set(job.deps):
            return False
        deps = [{"path": dep, "hash": "md5", "md5": now[dep]} for dep in sorted(job.deps)]
        asked = {"cmd": job.cmd, "deps": deps, "outs": sorted(job.outs)}  # as DVC names a run
        key = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
        folder = cache_folder(self.root) / "runs" / key[:2] / key
        for path in sorted(folder.glob("*"), key=lambda file: file.stat().st_mtime)[-1:]:
            try:
                return self._holds(yaml.safe_load(path.read_text(encoding="utf-8")))
            except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError):
                return False
        said = self.lock.get(job.address, {})
        return hashes_in(said, "deps") == now and said.get("cmd") == job.cmd and self._holds(said)

    def _holds(self, job: dict) -> bool:
        """Whether the cache holds all that a record says a job made."""
        return all(object_in(self.objects, hash_).is_file() for hash_ in hashes_in(job, "outs").values())


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """SECTION.KEY: value, and the path of a module: its fingerprint."""
    found = {}
    for key, value in record.items():
        inside = value if isinstance(value, dict) else None
        if inside is None:
            found[key] = value
        else:
            found |= {name if key == "code" else f"{key}.{name}": item for name, item in inside.items()}
    return found


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Parameters with both values, and modules, in which two flat records differ; of a mapping, what differs in it."""
    said = []
    for key in dict.fromkeys([*new, *old]):
        if old.get(key) != new.get(key):
            both = old.get(key), new.get(key)
            if all(isinstance(value, dict) for value in both):
                said += [f"{key}.{words}" for words in differences(*both)]
            elif "/" in key:
                said.append(
                    f"{key} {'has changed' if key in old and key in new else 'is new' if key in new else 'left'}"
                )
            else:
                said.append(f"{key} {_shown(old, key)} -> {_shown(new, key)}")
    return said


def _shown(record: dict[str, Any], key: str) -> str:
    return clipped(json.dumps(record[key], default=str) if key in record else "none", SHOWN_VALUE)
