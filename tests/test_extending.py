"""The examples of docs/extending.md, put into a copy of the project piece by piece, work there."""

import ast
import gzip
import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import smoke
import torch
import yaml
from engines import copy_project, planned, run
from smoke import ROOT

from mebm.data.archives import save_images
from mebm.files import sha256, write_json
from mebm.method.energy import build_model
from mebm.training.checkpoint import Checkpoint, save_checkpoint

DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PIECE = re.compile(r"`([\w./]+)`, (?:new|(before|after)\s`([^`]+)`):\n\n```\w+\n(.*?)```", re.DOTALL)
# The files that each example touches: nothing else needs to know of an entry
FILES = {
    "A published data set": {"mebm/sources/fashion_mnist.py", "docs/data.md"},
    "An analysis": {
        *("mebm/analyses/brightness.py", "stages/brightness.py", "mebm/settings/schema.py", "params.yaml", "dvc.yaml"),
        "mebm/show/report/blocks/brightness.html.j2",
    },
    "A table": {"mebm/show/tables/seeds.py"},
    "A feature network": {"mebm/measure/networks/random.py"},
    "A training step or an objective": {"mebm/method/algorithms/bounded.py"},
    "A tracker": {"tracker/lines_tracker.py", "tracker/pyproject.toml"},
}


def put(folder: Path, pieces: list[tuple[str, str, str, str]]) -> None:
    """Write the pieces into the files that they name, before or after the line that starts so."""
    for file, where, line, text in pieces:
        path = folder / file
        if not where:
            assert not path.exists(), file
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
            continue
        lines = path.read_text().splitlines(keepends=True)
        (at,) = [number for number, found in enumerate(lines) if found.startswith(line)]
        text += "\n\n" if path.suffix == ".py" else ""  # between classes
        lines.insert(at + (where == "after"), text)
        path.write_text("".join(lines))


@pytest.fixture(scope="module")
def pieces() -> list[tuple[str, str, str, str]]:
    found = PIECE.findall(DOCUMENT)
    assert len(found) == DOCUMENT.count("```") // 2  # every block of code says where it goes
    return found


def idx(path: Path, header: int, values: np.ndarray) -> str:
    """A file as Fashion-MNIST has them, and its checksum."""
    path.write_bytes(gzip.compress(bytes(header) + values.astype(np.uint8).tobytes()))
    return f"sha256:{sha256(path)}"


@pytest.fixture(scope="module")
def clothes() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (100, 28, 28), np.uint8)


@pytest.fixture(scope="module")
def project(tmp_path_factory, pieces, clothes) -> Path:
    """A copy of the project with all examples in it and in use, and files to work on."""
    folder = tmp_path_factory.mktemp("extended") / "project"
    content = smoke.smoke_params()
    for file, *_, text in pieces:
        content |= yaml.safe_load(text) if file == "params.yaml" else {}
    suite = content["suite"]
    suite["tables"] = ["generation", "seeds"]
    suite["datasets"]["digits"] = {"features": {"network": "random"}}
    suite["datasets"]["fashion"] = {"dataset": {"source": "fashion_mnist", "image_size": 32, "n_source": 80}}
    small = {"batch_size": 8, "label_batch_size": 8, "buffer_size": 20}
    suite["trained"]["mebm"]["train"] = {**small, "algorithm": "bounded"}
    suite["trained"]["mjem"]["train"] |= small
    content["compute"] |= {"trackers": ["lines"]}
    copy_project(folder, content)
    (folder / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "data.md", folder / "docs")
    put(folder, [piece for piece in pieces if piece[0] != "params.yaml"])
    install = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", ".")  # here stages look first
    run(folder, sys.executable, "-m", "pip", "install", *install, "./tracker")

    downloads = folder / "data" / "downloads"
    downloads.mkdir(parents=True)
    checksums = suite["datasets"]["fashion"]["dataset"]["checksums"] = {}
    for part, images in (("train", clothes[:80]), ("t10k", clothes[80:])):
        for kind, header, values in (("images-idx3", 16, images), ("labels-idx1", 8, np.arange(len(images)) % 10)):
            name = f"{part}-{kind}-ubyte.gz"
            checksums[name] = idx(downloads / name, header, values)
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))

    train = {**content["train"], "pyx_weight": 1.0}
    torch.manual_seed(0)
    model = build_model((1, 8, 8), 10, **{key: train[key] for key in ("depth", "width", "head", "norm", "dropout")})
    buffer = torch.full((20, 1, 8, 8), -1.0)
    buffer[:, :, :4] = 1.0  # half black, half white
    checkpoint = folder / "results" / "mjem" / "train" / "checkpoint.pt"
    save_checkpoint(checkpoint, Checkpoint(model, buffer, train, (1, 8, 8), 10, 1))
    greys = np.full((40, 1, 8, 8), 51, np.uint8)
    greys[::2] = 0
    greys[1::2] = 102
    for part in ("train", "test"):
        save_images(folder / "data" / "digits" / f"{part}.npz", greys, np.arange(40) % 10)
    stages(
        folder,
        "params --out results/params",
        "gaussian --dataset digits --train data/digits/train.npz --out data/digits/gaussian.npz",
    )
    return folder


def stages(folder: Path, *commands: str) -> None:
    """Run commands of stages, one after the other in one process."""
    script = (
        "import importlib, sys\n"
        "for command in sys.argv[1:]:\n"
        "    name, *words = command.split()\n"
        "    assert importlib.import_module(f'stages.{name}').main(words) == 0, command\n"
    )
    run(folder, sys.executable, "-c", script, *commands)


def record_of(project: Path, job: str) -> dict:
    return yaml.safe_load((project / "results" / "params" / f"{job}.yaml").read_text())


def test_each_example_touches_the_files_that_the_table_names():
    _, *sections = re.split(r"^## ", DOCUMENT, flags=re.MULTILINE)
    found = {text.split("\n")[0]: {file for file, *_ in PIECE.findall(text)} for text in sections}
    assert found == FILES


def test_the_examples_are_formatted_as_the_project_is(project):
    files = [str(project / file) for files in FILES.values() for file in files if file.endswith(".py")]
    shutil.copy(ROOT / "pyproject.toml", project)
    for command in (["check", "--quiet"], ["format", "--check"]):
        run(project, "ruff", *command, *files)
    for file in files:
        assert ast.get_docstring(ast.parse(Path(file).read_text())), file


def test_a_data_set(project, clothes):
    stages(project, "dataset --dataset fashion --out data/fashion")
    manifest = json.loads((project / "data/fashion/manifest.json").read_text())
    assert manifest["counts"] == {"train": 80, "test": 20}
    assert manifest["shape"] == [1, 32, 32]
    assert manifest["licence"].startswith("MIT")
    with np.load(project / "data/fashion/test.npz") as test:
        assert np.array_equal(test["images"][:, 0, 2:30, 2:30], clothes[80:])
        assert test["labels"].tolist() == [*range(10)] * 2
    assert "mebm/sources/fashion_mnist.py" in record_of(project, "dataset.fashion")["code"]
    assert "mebm/sources/fashion_mnist.py" not in record_of(project, "dataset.digits")["code"]
    assert record_of(project, "report.smoke")["datasets"]["fashion"] == "Fashion-MNIST"


def test_an_analysis_and_its_block(project):
    stages(
        project,
        "brightness --run mjem --out results/mjem/analyses/brightness",
        "report --suite smoke --results results --out results/smoke/report.html",
    )
    record = json.loads((project / "results/mjem/analyses/brightness/metrics.json").read_text())
    assert record["data"] == {"brightness": 51.0, "contrast": 0.0}
    assert record["samples"] == {"brightness": 127.5, "contrast": 127.5}
    text = (project / "results/smoke/report.html").read_text()
    assert "<h4>Brightness</h4>" in text
    assert 'alt="Histograms of the mean grey level of data and of samples"' in text
    assert re.search(r'<th scope="row">samples, brightness</th>\s*<td class="number">127.5</td>', text)
    assert "dvc repro brightness@mjem" in text
    shown = run(project, sys.executable, "-m", "stages.brightness", "--help")
    assert re.search(r"--n-bins X\s+\(32\)", shown)


def test_the_record_of_an_analysis_knows_the_modules_that_it_imports(project):
    record = record_of(project, "brightness.mjem")
    wanted = ("analyses/brightness", "figures/plots", "training/checkpoint", "method/wideresnet")
    assert {"stages/brightness.py", *(f"mebm/{name}.py" for name in wanted)} <= set(record["code"])
    assert "mebm/training/loop.py" not in record["code"]
    assert record["brightness"] == {"n_bins": 32}


def test_the_parameters_fit_the_project_file(project, tmp_path, pieces):
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    put(tmp_path, [piece for piece in pieces if piece[0] == "params.yaml"])
    script = (
        "from mebm.settings.suite import load_params\n"
        f"print(load_params({str(tmp_path / 'params.yaml')!r}).resolve('brightness', 'mjem_mnist').brightness.n_bins)"
    )
    assert run(project, sys.executable, "-c", script).strip() == "32"


def test_a_feature_network_and_a_table(project):
    data = "data/digits"
    stages(
        project,
        f"features --dataset digits --train {data}/train.npz --test {data}/test.npz --out {data}/features.pt "
        f"--metrics {data}/features.json",
        f"reference --dataset digits --train {data}/train.npz --features {data}/features.pt --out {data}/reference.npz",
        f"baseline --dataset digits --test {data}/test.npz --gaussian {data}/gaussian.npz --features "
        f"{data}/features.pt --reference {data}/reference.npz --out results/baseline/digits",
    )
    measured = json.loads((project / "results/baseline/digits/heldout.json").read_text())
    assert measured["random_distance"] == pytest.approx(0, abs=1e-6)  # the same images
    assert measured["random_score"] >= 1
    assert measured["preprocessing"] == "random"
    numbers = {"n_images": 20, "random_score": 2.0, "n_test": 40, "accuracy": None, "loss": None}
    numbers |= {"n_reference": 40, "reference_split": "train"}
    for name, distance in (("mebm", 1.25), ("mjem", 3.0)):
        write_json(project / "results" / "summary" / f"{name}.json", {"random_distance": distance, **numbers})
    options = "--summary results/summary --baseline results/baseline --out results/tables"
    stages(project, f"tables --table seeds {options}", f"tables --table generation {options}")
    table = (project / "results/tables/seeds.csv").read_text().splitlines()
    assert table == [
        "data_set,method,metric,lowest,highest,n_seeds",
        "digits,M-EBM,random_distance,1.25,1.25,1",
        "digits,M-JEM,random_distance,3.0,3.0,1",
    ]
    printed = (project / "results/tables/seeds.md").read_text()
    assert "| digits | M-EBM | random distance ↓ | 1.25 | 1.25 | 1 |" in printed
    assert "Reference of distances: digits, the 40 images of its train split." in printed
    generation = (project / "results/tables/generation.md").read_text()
    assert "| digits | M-EBM | random score ↑ | – | 2.00 |" in generation
    assert "| digits | held-out real images | random distance ↓ | – | 0.00 |" in generation
    assert "mebm/measure/networks/random.py" in record_of(project, "quality.mjem")["code"]
    assert "mebm/show/tables/seeds.py" in record_of(project, "tables.seeds")["code"]


def test_a_training_step(project):
    inputs = "--train data/digits/train.npz --test data/digits/test.npz --gaussian data/digits/gaussian.npz"
    stages(project, f"train --run mebm {inputs} --out results/mebm/train")
    assert (project / "results/mebm/train/checkpoint.pt").is_file()
    log = (project / "results/mebm/train/log.csv").read_text().splitlines()
    assert len(log) >= 2
    (lines,) = (project / "logs").glob("mebm.*.jsonl")
    told = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [said["event"] for said in told] == ["start", "look", *["log"] * (len(log) - 1), "look", "end"]
    assert [said["iteration"] for said in told if said["event"] == "log"] == [int(row.split(",")[0]) for row in log[1:]]
    assert told[-1]["status"] == "finished"
    used = "mebm/method/algorithms/bounded.py"
    assert used in record_of(project, "train.mebm")["code"]
    assert used not in record_of(project, "train.mjem")["code"]


def test_both_engines_know_them(project):
    jobs = {"brightness@mjem", "dataset@fashion", "tables@seeds"}
    assert jobs <= planned(project)
    assert jobs <= set(run(project, "dvc", "stage", "list", "--name-only").split())
