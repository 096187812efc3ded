"""GPUs: which are visible, and that each goes to one process of a user."""

import errno
import fcntl
import os
import subprocess
import sys

import pytest
import smoke
import torch

from mebm.errors import DataError, ParamsError, StateError
from mebm.folders import own_folder
from mebm.training import devices
from mebm.training.devices import claim, visible_ids

SCRIPT = (
    "import os, sys; from mebm.training.devices import claim\n"
    "free = claim('auto', lambda line: print(line, flush=True), poll=0.05)\n"
    "print(free, os.environ['CUDA_VISIBLE_DEVICES'], flush=True)\n"
    "sys.stdin.read()"
)


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in ("MEBM_DEVICES", "CUDA_VISIBLE_DEVICES", "SLURM_JOB_ID"):
        monkeypatch.setenv(name, "")  # so that it is put back, even where it was not set
        monkeypatch.delenv(name)
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setattr(devices, "_n_files", lambda: 0)


@pytest.fixture
def job():
    """Starts processes that claim a GPU, print it and keep it until the test is over."""
    started = []

    def start(**environment: str) -> subprocess.Popen:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": smoke.ROOT}
        started.append(subprocess.Popen([sys.executable, "-c", SCRIPT], env={**os.environ, **environment}, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_devices_are_shared_out_and_freed(job):
    jobs = [job(MEBM_DEVICES="0,1") for _ in range(2)]
    taken = {one.stdout.readline() for one in jobs}
    assert taken == {"0 0\n", "1 1\n"}
    third = job(MEBM_DEVICES="0,1")
    assert third.stdout.readline() == "waiting for one of the GPUs 0, 1: all are training\n"
    jobs[0].kill()
    assert third.stdout.readline() in taken


def test_a_device_has_one_lock_whatever_tmpdir_is_and_however_its_id_is_written(job, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    assert job(CUDA_VISIBLE_DEVICES="1", TMPDIR=str(tmp_path / "one")).stdout.readline() == "1 1\n"
    second = job(CUDA_VISIBLE_DEVICES=" 01", TMPDIR=str(tmp_path / "two"))
    assert second.stdout.readline() == "waiting for one of the GPUs 01: all are training\n"


def test_slurm_jobs_that_all_call_their_gpu_0_do_not_wait_for_each_other(job):
    free, waits = "0 0\n", "waiting for one of the GPUs 0: all are training\n"
    for number, expected in (("7", free), ("8", free), ("8", waits)):
        assert job(CUDA_VISIBLE_DEVICES="0", SLURM_JOB_ID=number).stdout.readline() == expected


def test_machines_that_share_a_home_do_not_share_locks(monkeypatch):
    monkeypatch.setenv("MEBM_DEVICES", "0")
    for name in ("one", "two"):
        monkeypatch.setattr("platform.node", lambda name=name: name)
        assert claim("auto", pytest.fail) == "0"


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        ("3,5", ["3", "5"]),
        (" 3 , 5 ", ["3", "5"]),
        ("3,-1,5", ["3"]),
        ("3,,5", ["3"]),
        ("3,x,5", ["3"]),
        ("3,5,3", []),
        ("3,03", []),
        ("GPU-8932f937-d72c,GPU-1", ["GPU-8932f937-d72c", "GPU-1"]),
        ("GPU-1,GPU-1", []),
        ("GPU-1,0", ["GPU-1"]),
        ("0,GPU-1", ["0"]),
        ("MIG-GPU-8932/1/0,MIG-2", ["MIG-GPU-8932/1/0", "MIG-2"]),
        ("MIG-1,GPU-1", ["MIG-1"]),
        *((word, []) for word in ("", " ", "-1", "none", "void", "NoDevFiles", "all", ",", "-1,0")),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(monkeypatch, value, ids):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    assert visible_ids() == ids
    assert [str(found) for found in torch.cuda._parse_visible_devices()] == ids
    if not ids:
        assert claim("auto", print) is None
        assert os.environ["CUDA_VISIBLE_DEVICES"] == value


def test_ids_beyond_the_gpus_that_are_there_end_the_list(monkeypatch):
    monkeypatch.setattr(devices, "_n_files", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,2,0")
    assert visible_ids() == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,-1")
    assert visible_ids() == ["1"]


def test_gpus_are_numbered_in_order_where_nothing_names_them(monkeypatch):
    monkeypatch.setattr(devices, "_n_files", lambda: 11)
    assert visible_ids() == [str(index) for index in range(11)]
    monkeypatch.setattr(devices, "_n_files", lambda: 0)
    assert visible_ids() == []


def test_a_device_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    with pytest.raises(ParamsError, match="2 GPUs are visible"):
        claim("cuda:2", print)
    assert claim("cpu", print) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"


def test_where_files_cannot_be_locked_nobody_waits_for_ever(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setenv("MEBM_DEVICES", "0")
    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StateError, match="No locks available"):
        claim("auto", pytest.fail)


def test_the_cache_is_the_users_and_private(monkeypatch, tmp_path):
    assert own_folder("devices") == tmp_path / "cache" / "mebm" / "devices"
    assert (tmp_path / "cache" / "mebm").stat().st_mode & 0o777 == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # which its standard says to ignore
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert own_folder("devices") == tmp_path / "home" / ".cache" / "mebm" / "devices"


@pytest.fixture
def shared(monkeypatch, tmp_path):
    """The folder that stands in for a home that cannot be written."""
    (tmp_path / "home").write_text("a file, which even root cannot make a folder in")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr("mebm.folders.SHARED", tmp_path / "tmp")
    (tmp_path / "tmp").mkdir()
    return tmp_path / "tmp" / f"mebm-{os.getuid()}"


def test_without_a_home_there_is_a_private_folder(shared, monkeypatch):
    assert own_folder("devices") == shared / "devices"
    assert shared.stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user whom the system does not know
    assert own_folder("devices") == shared / "devices"


def test_a_folder_that_another_user_may_have_prepared_is_refused(shared, tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    shared.symlink_to(tmp_path / "theirs")
    with pytest.raises(DataError, match="not a folder of this user alone; set XDG_CACHE_HOME"):
        own_folder("devices")
    shared.unlink()
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(DataError, match="not a folder of this user alone"):
        own_folder("devices")
    shared.chmod(0o700)
    assert own_folder("devices") == shared / "devices"
    monkeypatch.setattr("os.getuid", lambda: 4321)
    shared.rename(shared.with_name("mebm-4321"))
    with pytest.raises(DataError, match="mebm-4321 is not a folder of this user alone"):
        own_folder("devices")
