"""Files: whole or absent, nobody else's, and read without trusting them."""

import io
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import smoke
import yaml

from mebm.__main__ import main
from mebm.analyses.curves import LOG_COLUMNS, read_epochs, read_log
from mebm.commands import cost
from mebm.data.images import load_images
from mebm.engine import records
from mebm.errors import DataError, MetricError, ParamsError, one_line
from mebm.files import BoundedLoader, owning, read_json, read_npz, read_yaml, replacing, write_json, write_text
from mebm.measure.features import read_statistics
from mebm.method.gaussian import load_init
from mebm.settings.editing import with_values
from mebm.settings.suite import load_params
from stages import metrics, quality, report, start, summary, tables


def refused(call, path: Path, kind: type[Exception] = DataError) -> str:
    """The message with which a file is refused: one line that names it and says more."""
    with pytest.raises(kind) as error:
        call()
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert len(text) < len(str(path)) + 400
    return text


# ---------------------------------------------------------------- a folder that others use, too


def make(folder: Path, *names: str, content: str = "ours", job: str = "generate a") -> None:
    with owning(folder, job, names):
        for name in names:
            write_text(folder / name, content)


def test_what_is_not_the_jobs_own_is_refused_before_anything_is_written(tmp_path):
    (tmp_path / "images").mkdir()
    for index in range(60):
        (tmp_path / "images" / f"{index:05d}.png").write_text(f"holiday {index}")
    names = [f"images/{index:05d}.png" for index in range(3)]
    text = refused(lambda: make(tmp_path, "samples.npz", *names), tmp_path / "images" / "00000.png")
    assert "(nor 2 others)" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images"]
    assert [path.read_text() for path in sorted((tmp_path / "images").iterdir())] == [f"holiday {i}" for i in range(60)]


def test_only_what_the_job_made_is_replaced_or_removed(tmp_path):
    make(tmp_path, "a.png", "b.png", "c.png")
    (tmp_path / "mine.png").write_text("mine")
    (tmp_path / "c.png").write_text("changed by its user")
    make(tmp_path, "a.png", content="again")
    assert {path.name: path.read_text() for path in tmp_path.glob("*.png")} == {
        "a.png": "again",
        "c.png": "changed by its user",
        "mine.png": "mine",
    }


@pytest.mark.parametrize("kind", ["changed", "link", "folder", "of another job", "dangling link"])
def test_what_took_the_place_of_an_own_file_stays(tmp_path, kind):
    folder, other = tmp_path / "out", tmp_path / "other"
    other.write_text("ours")
    make(folder, "a.png", job="generate b" if kind == "of another job" else "generate a")
    path = folder / "a.png"
    if kind == "changed":
        path.write_text("mine")
    elif kind != "of another job":
        path.unlink()
        path.mkdir() if kind == "folder" else path.symlink_to(other if kind == "link" else tmp_path / "none")
    refused(lambda: make(folder, "a.png", content="new"), path)
    assert other.read_text() == "ours"
    assert os.path.lexists(path)


def test_a_file_that_appears_while_the_job_works_stays(tmp_path):
    def work() -> None:
        with owning(tmp_path, "generate a", ["a.png"]):
            (tmp_path / "a.png").write_text("mine")
            write_text(tmp_path / "a.png", "ours")

    refused(work, tmp_path / "a.png")
    assert (tmp_path / "a.png").read_text() == "mine"


@pytest.mark.parametrize("fault", ["raise MemoryError", "os._exit(1)"])
def test_a_command_that_ended_halfway_is_run_again(tmp_path, fault):
    code = (
        "import os, sys; from mebm.files import owning, write_text\n"
        "with owning(sys.argv[1], 'generate a', ['a.png', 'b.png']):\n"
        f"    write_text(sys.argv[1] + '/a.png', 'half'); {fault}"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=smoke.ROOT, check=False, capture_output=True)
    assert (tmp_path / "a.png").read_text() == "half"
    make(tmp_path, "b.png", content="whole")
    assert [path.name for path in tmp_path.glob("*.png")] == ["b.png"]


def test_a_failure_before_the_first_file_leaves_nothing(tmp_path):
    def work() -> None:
        with owning(tmp_path / "new", "generate a", ["a.png"]):
            raise DataError("x")

    with pytest.raises(DataError):
        work()
    assert not (tmp_path / "new").exists()


@pytest.fixture
def closed() -> Iterator[Path]:
    """A folder in which this user cannot write, for the time of a test that root runs as another user."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)
            Path(folder).chmod(0o755)


def test_a_folder_that_cannot_be_written_is_refused_before_the_work(closed):
    for folder in (closed, closed / "a" / "b"):
        with pytest.raises(DataError) as caught, owning(folder, "job x", ["a.json"]):
            pytest.fail("it worked")
        assert str(caught.value) == (
            f"{folder}: cannot be written, since {closed} is not writable; give another folder as --out"
        )
    with pytest.raises(DataError, match=rf"^{closed}/a\.zip: cannot be written \(Permission denied\); check"):
        write_text(closed / "a.zip", "x")


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(DataError, match=r"a: is a file, expected a folder"), owning(tmp_path / "a" / "b", "job x", []):
        pytest.fail("it worked")


def test_outside_of_a_claim_files_are_written_as_ever(tmp_path):
    (tmp_path / "a.txt").write_text("old")
    with owning(tmp_path / "sub", "job x", []):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"
    with pytest.raises(DataError, match="cannot be written"), replacing(tmp_path / "a.txt" / "b"):
        pass


def test_resolved_parameters_leave_other_files_alone(tmp_path):
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
    loaded = load_params(tmp_path / "params.yaml")
    others = {
        "docker.compose.yaml": "services: {}\n",
        "train.notes.yaml": "mine: 1\n",
        "train.gone.yaml": "name: gone\n",
    }
    out = tmp_path / "out"
    out.mkdir()
    for name, text in others.items():
        (out / name).write_text(text)
    records.write(loaded, out)
    assert {name for name in others if (out / name).exists()} == {"docker.compose.yaml", "train.notes.yaml"}


# ---------------------------------------------------------------- JSON, YAML, CSV, npz


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not valid JSON"),
        (b'{"a": 1', "is not valid JSON"),
        (b'{"a": NaN}', "it holds NaN"),
        (b'{"a": -Infinity}', "it holds -Infinity"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"[1]", "holds a list, expected a mapping"),
        (b'"text"', "holds a str"),
        (b"null", "holds a NoneType"),
        (b'{"a": ' + b"[" * 500 + b"]" * 500 + b"}", "nested"),
        (b"[" * 200_000, "nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not valid JSON"),
    ],
)
def test_json_that_is_none(tmp_path, content, message):
    path = tmp_path / "record.json"
    path.write_bytes(content)
    assert message in refused(lambda: read_json(path), path)


def test_text_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "record.json"
    with open(path, "wb") as file:
        file.truncate(2**40)
    assert "more than the" in refused(lambda: read_json(path), path)


@pytest.mark.parametrize("read", [read_json, read_yaml, lambda path: read_npz(path, "images")])
def test_a_folder_where_a_file_is_due_is_refused(tmp_path, read):
    assert refused(lambda: read(tmp_path), tmp_path) == f"{tmp_path}: is a folder, expected a file"


BOMBS = {
    "laughs": "a0: &a0 [x, x, x, x, x, x, x, x, x]\n"
    + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)),
    "merges": "a0: &a0 {x: 1}\n" + "".join(f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}\n" for i in range(1, 60)),
    "long scalar": f"a: &a {'x' * 1000}\nb: [{', '.join(['*a'] * 5000)}]\n",
    "itself": "a: &a [*a]\n",
    "deep": "[" * 100_000,
    "deep by aliases": "".join(f"a{i}: &a{i} [{f'*a{i - 1}' if i else 1}]\n" for i in range(5000)),
    "large number": f"a: {'9' * 10_000}\n",
    "tag": "a: !!timestamp x\n",
    "bool": "a: !!bool perhaps\n",
    "python": "a: !!python/object/apply:os.system [exit 1]\n",
    "bytes": "a: \x01\n",
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.more) if name == "deep by aliases" else name for name in BOMBS]
)
def test_yaml_bombs_end_at_once_in_one_line(tmp_path, name, capsys):
    path = tmp_path / "params.yaml"
    path.write_text(BOMBS[name] + yaml.safe_dump(smoke.smoke_params()) if name != "deep" else BOMBS[name])
    refused(lambda: load_params(path), path, ParamsError)
    refused(lambda: read_yaml(path), path)
    assert main(["cost", "--params", str(path)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {path}: is not valid YAML")
    with pytest.raises(ParamsError, match="is not a value"):
        with_values("", [f"train.lr={BOMBS[name] if name == 'deep' else '[' * 5000}"])


def test_aliases_as_people_use_them_are_read():
    text = (smoke.ROOT / "params.yaml").read_text()
    assert yaml.load(text, Loader=BoundedLoader)["suites"]["paper"]


def test_a_pipe_is_no_parameter_file(tmp_path):
    os.mkfifo(tmp_path / "params.yaml")
    refused(lambda: load_params(tmp_path / "params.yaml"), tmp_path / "params.yaml", ParamsError)


LOG = ",".join(LOG_COLUMNS) + "\n"
EPOCHS = "epoch,iteration,accuracy,loss\n"


@pytest.mark.parametrize(("reader", "head"), [(read_log, LOG), (read_epochs, EPOCHS)])
@pytest.mark.parametrize(
    "rows",
    [
        [],
        ["x"],
        ["\x00"],
        ['"'],
        ["1.5", "1.5"],
        ["-1", "-1"],
        ["3", "3"],
        ["3", "2"],
        ["1,1,inf"],
        ["1,1,one"],
        ["99999999999999999999999"],
        ["1e300,1e300"],
        [",".join("1" * 12)],
    ],
)
def test_logs_that_are_damaged(tmp_path, reader, head, rows):
    """A row is filled up with its last value."""
    columns = head.count(",") + 1
    cells = [[*row.split(","), *[row.split(",")[-1]] * columns] for row in rows]
    filled = [",".join(cell[: max(columns, row.count(",") + 1)]) for cell, row in zip(cells, rows, strict=True)]
    (tmp_path / "log.csv").write_text(head + "\n".join(filled) + "\n")
    refused(lambda: reader(tmp_path / "log.csv"), tmp_path / "log.csv")


@pytest.mark.parametrize(("reader", "head"), [(read_log, LOG), (read_epochs, EPOCHS)])
def test_logs_that_are_whole(tmp_path, reader, head):
    columns = head.count(",") + 1
    (tmp_path / "log.csv").write_text(head + "".join(",".join([row] * columns) + "\n" for row in "123"))
    assert reader(tmp_path / "log.csv")["iteration"].tolist() == [1, 2, 3]


@pytest.mark.parametrize("content", [b"", b"\xff\xff,", LOG.encode() + b"0,1,1,1,1,1,1,x,y,z\n0,1\n"])
def test_logs_that_are_no_text(tmp_path, content):
    (tmp_path / "log.csv").write_bytes(content)
    refused(lambda: read_log(tmp_path / "log.csv"), tmp_path / "log.csv")


def npy(shape: str, content: bytes, kind: str = "|u1") -> bytes:
    file = io.BytesIO()
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    file.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + content)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (npy("(10000000000000,)", b"abc"), "has 3 bytes"),
        (npy("(4,)", b"abc"), "has 3 bytes"),
        (npy("(2,)", b"abc"), "has 3 bytes"),
        (npy("(-3,)", b"abc"), "bytes"),
        (npy("(1,)", b"12345678", "|O"), "objects"),
        (npy("'x'", b"abc"), "not a readable"),
        (b"\x93NUMPY\x07\x00", "not a readable"),
        (b"", "not a readable"),
    ],
)
def test_arrays_that_are_not_what_they_say(tmp_path, content, message):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("images.npy", content)
    assert message in refused(lambda: read_npz(tmp_path / "x.npz", "images"), tmp_path / "x.npz")


def test_an_archive_that_would_unpack_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr("mebm.files.UNPACKED", 10**6)
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((2000, 1, 32, 32), np.uint8))
    assert "would unpack to" in refused(lambda: read_npz(tmp_path / "x.npz", "images"), tmp_path / "x.npz")
    np.savez(tmp_path / "x.npz", images=np.zeros((2000, 1, 32, 32), np.uint8))  # as large as its file, so no bomb
    assert len(read_npz(tmp_path / "x.npz", "images")["images"]) == 2000


IMAGES = np.zeros((4, 1, 8, 8), np.uint8)


@pytest.mark.parametrize(
    "arrays",
    [
        {"images": np.uint8(3)},
        {"images": np.zeros(3, np.uint8)},
        {"images": np.array(["a"] * 4)},
        {"images": IMAGES, "labels": np.int64(3)},
        {"images": IMAGES, "labels": np.array(["a"] * 4)},
        {"images": IMAGES, "labels": np.full(4, np.nan)},
        {"images": IMAGES, "labels": np.array([0, 1, 2, 10**12])},
        {"images": IMAGES, "labels": np.array([0, 1, 2, 2**64 - 1], np.uint64)},
        {"images": IMAGES, "labels": np.arange(4), "classes": np.array([])},
        {"images": IMAGES, "labels": np.arange(4), "classes": np.array("many")},
        {"images": IMAGES, "labels": np.arange(4), "classes": np.array(10**15)},
        {"images": IMAGES[:0], "labels": np.zeros(0)},
    ],
)
def test_images_that_are_damaged(tmp_path, arrays):
    np.savez(tmp_path / "x.npz", **arrays)
    refused(lambda: load_images(tmp_path / "x.npz", allow_empty=True), tmp_path / "x.npz")


GAUSSIAN = {"mean": np.zeros(64), "cov": np.eye(64), "ridge": np.float64(1e-4)}


@pytest.mark.parametrize(
    "change",
    [
        {"mean": np.zeros(64, complex)},
        {"mean": np.zeros((8, 8))},
        {"mean": np.array(0.5)},
        {"mean": np.array(["a"] * 64)},
        {"cov": np.eye(63)},
        {"cov": np.full((64, 64), np.inf)},
        {"cov": np.zeros(64)},
        {"ridge": np.zeros(2)},
        {"ridge": np.array(np.nan)},
        {"ridge": np.array("small")},
        {"cov": np.zeros((64, 64), "U1")},
    ],
)
def test_a_gaussian_that_is_damaged(tmp_path, change):
    np.savez(tmp_path / "g.npz", **{**GAUSSIAN, **change})
    refused(lambda: load_init("gaussian", tmp_path / "g.npz", (1, 8, 8)), tmp_path / "g.npz")


@pytest.mark.parametrize("kind", [">f8", "<f4", "<f2", np.longdouble])
def test_a_gaussian_of_any_float_is_read(tmp_path, kind):
    np.savez(tmp_path / "g.npz", **{key: value.astype(kind) for key, value in GAUSSIAN.items()})
    assert load_init("gaussian", tmp_path / "g.npz", (1, 8, 8)).mean.tolist() == [0.0] * 64


class Network:
    n_features, preprocessing = 4, "pytorch_fid"


@pytest.mark.parametrize(
    "change",
    [
        {"mu": np.zeros(5)},
        {"mu": np.array(["a"] * 4)},
        {"mu": np.full(4, np.nan)},
        {"mu": np.array(1.0)},
        {"sigma": np.zeros((4, 4), complex)},
        {"sigma": np.full((4, 4), -np.inf)},
        {"sigma": -np.eye(4)},
        {"sigma": np.triu(np.ones((4, 4)))},
        {"sigma": 2 * np.ones((4, 4)) - np.eye(4)},
        {"sigma": np.zeros((4, 5))},
        {"preprocessing": np.array(7)},
    ],
)
def test_statistics_from_elsewhere_that_are_damaged(tmp_path, change):
    path = tmp_path / "fid.npz"
    np.savez(path, **{"mu": np.zeros(4), "sigma": np.eye(4), **change})
    refused(lambda: read_statistics(path, Network), path)


# ---------------------------------------------------------------- records that stages read

QUALITY = {"fcd": 1.0, "classifier_score": 2.0, "n_images": 9}
ACCURACY = {"accuracy": 0.5, "loss": 0.1, "n_images": 9}
COST = {"iterations": 11, "flops": 2.5e15, "hours": 1.25}
MANIFEST = {"seed": 0, "restarts": 0, "checkpoint_sha256": "a", "protocols": {"full": {"images_sha256": "b"}}}
SET = {"shape": [1, 8, 8], "counts": {"train": 20, "test": 9}, "labels": None}
WRONG = (None, [], {}, "text", True, -1.5, [None], {"x": 1})


def damaged(record: dict) -> list[dict | list]:
    """The record without each key, and with each value replaced by those of other types."""
    without = [{key: value for key, value in record.items() if key != gone} for gone in record]
    replaced = [{**record, key: other} for key in record for other in WRONG if type(other) is not type(record[key])]
    return [[record], *without, *replaced]


@pytest.fixture
def stage(tmp_path, capsys):
    """Run a stage on files in tmp_path; it must end well, or in one line that names the file."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))
    common = ["--params", str(tmp_path / "params.yaml"), "--logs", str(tmp_path / "logs")]

    def run(module, path: Path, content: object, *argv: object) -> bool:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
        capsys.readouterr()
        words = [*map(str, argv), *common[:2]]
        status = main(["cost", *words]) if module is cost else module.main([*words, *common[2:]])
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert (status == 0) == (not lines)
        assert not lines or (len(lines) == 1 and str(path) in lines[0]), lines
        return status == 0

    return run


def allowed(record: dict, content: object, nullable: tuple[str, ...]) -> bool:
    """Whether a record may differ in this way: null where there is no number."""
    return isinstance(content, dict) and set(content) == set(record) and any(content[key] is None for key in nullable)


def test_summary_of_damaged_records(stage, tmp_path):
    q, a, c = (tmp_path / f"{name}.json" for name in ("quality", "accuracy", "cost"))
    argv = ("--run", "mjem", "--quality", q, "--accuracy", a, "--cost", c, "--out", tmp_path / "summary.json")
    a.write_text(json.dumps(ACCURACY))
    c.write_text(json.dumps(COST))
    assert stage(summary, q, {"full": QUALITY}, *argv)
    for value in (-0.1, 1.5, "high"):
        assert not stage(summary, q, {"full": {**QUALITY, "recall": value}}, *argv)
    assert stage(summary, q, {"full": {**QUALITY, "precision": 1.0, "recall": None}}, *argv)
    for content in damaged(QUALITY):
        expected = allowed(QUALITY, content, ("fcd", "classifier_score"))
        assert stage(summary, q, {"full": content}, *argv) == expected, content
    assert not stage(summary, q, [QUALITY], *argv)
    q.write_text(json.dumps({"full": QUALITY}))
    for content in damaged(ACCURACY):
        assert stage(summary, a, content, *argv) == allowed(ACCURACY, content, ("accuracy", "loss")), content
    a.write_text(json.dumps(ACCURACY))
    for content in damaged(COST):
        assert stage(summary, c, content, *argv) == allowed(COST, content, tuple(COST)), content


@pytest.mark.more
def test_tables_of_damaged_records(stage, tmp_path):
    path = tmp_path / "summary" / "mjem.json"
    baseline = tmp_path / "baseline" / "digits" / "initial.json"
    common = ("--baseline", tmp_path / "baseline", "--out", tmp_path / "tables")
    argv = ("--table", "demo", "--summary", path.parent, *common)
    record = {**QUALITY, "n_test": 9, "accuracy": 0.5, "loss": 0.1, "status": "ok", "restarts": 1}
    record |= {"release_0.9": QUALITY}
    record["hours"] = 1.0
    assert stage(tables, path, record, *argv)
    optional = ("fcd", "classifier_score", "accuracy", "loss", *record)
    for content in damaged(record):
        fine = isinstance(content, dict) and len(content) < len(record)  # a run need not have all numbers
        fine = fine or allowed(record, content, (*optional[:4], "hours"))
        assert stage(tables, path, content, *argv) == fine, content
        suite = ("--suite", "smoke", "--summary", path.parent, "--out", tmp_path / "metrics.json")
        assert stage(metrics, path, content, *suite) == fine, content
    path.write_text(json.dumps(record))
    for content in damaged(QUALITY):
        fine = allowed(QUALITY, content, ("fcd", "classifier_score"))
        assert stage(tables, baseline, content, *argv) == fine, content
        assert stage(start, baseline, content, "--suite", "smoke", *common) == fine, content


def test_quality_of_a_damaged_manifest(stage, tmp_path):
    path = tmp_path / "manifest.json"
    paths = {key: tmp_path / f"{key}.npz" for key in ("images", "features", "reference")}
    argv = [word for key, value in paths.items() for word in (f"--{key}", value)]
    argv += ["--run", "mjem", "--manifest", path, "--out", tmp_path / "quality.json"]
    for content in damaged(MANIFEST):
        if content != {**MANIFEST, "protocols": {}}:
            assert not stage(quality, path, content, *argv), content
    for protocols in ({"full": {}}, {"full": []}, {"../../etc/passwd": {"images_sha256": "b"}}):
        assert not stage(quality, path, {**MANIFEST, "protocols": protocols}, *argv)


def test_cost_of_a_damaged_manifest(stage, tmp_path):
    path = tmp_path / "data" / "digits" / "manifest.json"
    for content in damaged(SET):
        if content != {**SET, "labels": []}:
            assert not stage(cost, path, content, "--data", tmp_path / "data"), content
    for shape in ([8, 8], [1, 8, "8"], [1, 8, -8]):
        assert not stage(cost, path, {**SET, "shape": shape}, "--data", tmp_path / "data")


def test_report_of_damaged_records(stage, tmp_path):
    project = Path(smoke.ROOT)
    (tmp_path / "dvc.yaml").write_text((project / "dvc.yaml").read_text())
    results = tmp_path / "results"
    records.write(load_params(tmp_path / "params.yaml"), results / "params")
    argv = ("--suite", "smoke", "--results", results, "--data", tmp_path / "data", "--out", tmp_path / "report.html")
    found = {"status": "ok", "warning": None, "final": {"accuracy": 0.5}}
    path = results / "mjem" / "analyses" / "curves" / "metrics.json"
    assert stage(report, path, found, *argv)
    for content in ([found], {**found, "status": 1}, {**found, "warning": [1]}, {**found, "final": [1]}):
        assert not stage(report, path, content, *argv), content
    path.unlink()
    for name, content in (
        ("data/digits/manifest.json", {**SET, "counts": [1]}),
        ("data/digits/manifest.json", {**SET, "duplicates": {"train": -1}}),
        ("data/digits/manifest.json", {**SET, "pictures": {"skipped": 3}}),
        ("results/baseline/digits/initial.json", {**QUALITY, "fcd": "low"}),
        ("results/summary/mjem.json", {**QUALITY, "fcd": "low"}),
        ("results/mjem/train/cost.json", {**COST, "hours": -1.0}),
        ("results/params/all.yaml", {"dataset.digits": []}),
        ("results/params/all.yaml", ["dataset.digits"]),
    ):
        assert not stage(report, tmp_path / name, content, *argv), name
        if "params" not in name:
            (tmp_path / name).unlink()


def test_an_input_is_never_the_output(stage, tmp_path):
    path = tmp_path / "quality.json"
    (tmp_path / "accuracy.json").write_text(json.dumps(ACCURACY))
    (tmp_path / "cost.json").write_text(json.dumps(COST))
    argv = ("--run", "mjem", "--quality", path, "--accuracy", tmp_path / "accuracy.json")
    argv += ("--cost", tmp_path / "cost.json", "--out", path)
    assert not stage(summary, path, {"full": QUALITY}, *argv)
    assert json.loads(path.read_text()) == {"full": QUALITY}


# ---------------------------------------------------------------- what is written and said


def test_names_cannot_write_to_the_terminal():
    assert one_line("a\x1b[2Jb\nc\u202ed\udcff é ±") == "a\\x1b[2Jb c\\u202ed\\udcff é ±"


def test_a_value_that_is_not_finite_writes_nothing(tmp_path):
    with pytest.raises(MetricError, match="not finite"):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert list(tmp_path.iterdir()) == []
