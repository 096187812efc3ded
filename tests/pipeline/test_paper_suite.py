"""The paper suite's chain from archive to table, in both engines, on tiny copies of every data set."""

import shutil
from pathlib import Path

import archives
import pandas as pd
import pytest
import smoke
from engines import digests, planned, run, stale
from smoke import ROOT

from mebm.files import read_json, sha256

RELEASE = ROOT / "tests" / "oracle" / "wrn10_1_uncond.pt"
TRAIN = {"depth": 10, "width": 1, "n_steps": 1, "batch_size": 8, "label_batch_size": 8, "buffer_size": 12, "epochs": 1}


def paper_params(files: Path) -> dict:
    """Every data set of the paper in small, runs on three of them, and a checkpoint of the release."""
    downloads = files / "downloads"
    weights = archives.inception_weights(files / "weights")
    train, test = archives.pictures(20), archives.pictures(10, seed=1)
    downloads.mkdir()
    archives.cifar(downloads / "cifar-10-python.tar.gz", train, test, 10, False)
    archives.cifar(downloads / "cifar-100-python.tar.gz", train, test, 10, True)
    for part, images in (("train", train), ("test", test)):
        archives.svhn(downloads / f"{part}_32x32.mat", images)
    archives.imagenet32(downloads, train, test, "npz")
    archives.tiny_imagenet(downloads / "tiny-imagenet-200.zip", archives.pictures(20, 64), archives.pictures(4, 64, 1))
    archives.folder(files / "hq", archives.pictures(20, 128))
    archives.folder(files / "mine", archives.pictures(30, 40), 2)
    checksums = {path.name: f"sha256:{sha256(path)}" for path in downloads.iterdir()}

    content = smoke.smoke_params()
    content["dataset"] |= {"downloads": str(downloads), "checksums": checksums, "n_source": 20, "image_size": 32}
    content["features"] |= {"network": "inception", "weights": str(weights), "weights_sha256": weights.stem[-8:]}
    content["baseline"] |= {"n_images": 4}
    content["train"] |= {**TRAIN, "snapshot_images": 4}  # Inception takes a third of a second an image
    content["generate"] |= {"count": 6, "quality_every": 4}
    content["neighbours"] |= {"n_samples": 5, "n_references": 10}
    content["quality"] |= {"score_splits": 2}
    sources = {
        "cifar10": {},
        "cifar100": {},
        "svhn": {},
        "imagenet32": {},
        "tiny_imagenet": {"image_size": 64},
        "celeba_hq": {"image_size": 128, "path": str(files / "hq"), "n_test": 0},
        "mine": {
            "source": "image_folder",
            "image_size": 16,
            "path": str(files / "mine"),
            "n_test": 10,
            "n_source": None,
        },
    }
    datasets = {name: {"dataset": {"source": name, **changes}} for name, changes in sources.items()}
    datasets["cifar10"] |= {"features": {"preprocessing": "pytorch_fid"}}
    with_runs = ("cifar10", "celeba_hq", "mine")  # the others go as far as the table of initial distributions
    trained = {f"mebm_{name}": {"method": "M-EBM, K = 1", "dataset": name} for name in with_runs}
    sample = {"protocols": ["full", "release_0.9", "release_10000"]}
    trained["mjem_cifar10"] = {"method": "M-JEM", "dataset": "cifar10", "train": {"pyx_weight": 1.0}, "sample": sample}
    shutil.copy(RELEASE, files / "released.pt")
    released = {"method": "released M-EBM", "dataset": "cifar10", "checkpoint": str(files / "released.pt")}
    released["sample"] = sample
    tables = ("generation", "classification", "steps")
    suite = smoke.suite("paper", datasets, trained, {"released": released}, tables, ("mjem_cifar10", "mebm_celeba_hq"))
    suite["compared"] = {
        "svhn": {"dataset": {"source": "svhn"}},
        "celeba": {"dataset": {"source": "celeba_hq", "path": str(files / "hq"), "n_test": 5}},
    }
    return content | {"suite": suite}


@pytest.mark.wide
@pytest.mark.slow
def test_from_archive_to_table_in_both_engines(project, tmp_path):
    content = paper_params(tmp_path)
    one = project("snakemake", content)
    run(one, "snakemake")
    assert planned(one) == set()
    assert stale(one) == set()

    generation = pd.read_csv(one / "results" / "tables" / "generation.csv")
    rows = generation[generation["ours_mean"].notna()]
    assert set(rows["data_set"]) == {
        *("CIFAR-10", "CIFAR-100", "SVHN", "ImageNet 32x32", "Tiny ImageNet", "CelebA-HQ 128", "mine")
    }
    assert {"fid", "is_mean"} <= set(rows["metric"])
    for method in ("released M-EBM", "M-JEM"):
        assert set(rows[rows["method"] == method]["protocol"]) == {"full", "release_0.9", "release_10000"}
    mjem = rows[(rows["method"] == "M-JEM") & (rows["metric"] == "fid")].set_index("protocol")["published"]
    assert mjem.dropna().to_dict() == {"release_0.9": 9.87, "release_10000": 10.38}
    # the same images give the same FID with or without training in between
    assert len(rows[(rows["data_set"] == "CelebA-HQ 128") & (rows["method"] == "held-out real images")]) == 0
    held_out = generation[(generation["data_set"] == "CelebA-HQ 128") & generation["ours_mean"].isna()]
    assert "no held-out images: all train" in set(held_out["note"])
    start = pd.read_csv(one / "results" / "tables" / "start_paper.csv")
    assert set(start["published"].dropna()) == {220.3, 208.9, 415.6, 395.3}
    classification = (one / "results" / "tables" / "classification.md").read_text()
    assert "| CIFAR-10 | M-JEM | accuracy % ↑ | 94.08 |" in classification
    steps = pd.read_csv(one / "results" / "tables" / "steps.csv")
    assert steps["training_hours_mean"].notna().all()
    quality = read_json(one / "results" / "mjem_cifar10" / "quality.json")["full"]
    assert quality["preprocessing"] == "pytorch_fid"
    assert "do not fill 2048 dimensions" in quality["warning"]

    # DVC makes the same artifacts from the same archives; of data sets two, since it runs one job at a time, with
    # ImageNet's other layout. The steps table holds a time, which is never the same twice.
    downloads = tmp_path / "downloads"
    for path in downloads.glob("Imagenet32_*_npz.zip"):
        path.unlink()
    archives.imagenet32(downloads, archives.pictures(20), archives.pictures(10, seed=1), "pickle")
    suite = content["suite"]
    suite["datasets"] = {name: suite["datasets"][name] for name in ("cifar10", "imagenet32")}
    suite["trained"] = {name: run for name, run in suite["trained"].items() if run["dataset"] in suite["datasets"]}
    suite["analysed"] = {}
    two = project("dvc", content)
    run(two, "dvc", "repro")
    first, second = digests(one), digests(two)
    assert len(second) > 40
    of_the_suite = ("results/tables/", "results/params/all.yaml", "results/params/tables.", "results/params/start.")
    of_the_suite += ("results/params/report.", "results/paper/report.html")
    of_the_suite += ("results/params/metrics.", "results/paper/metrics.json")
    different = {name for name, value in second.items() if first[name] != value and not name.startswith(of_the_suite)}
    assert different == {"data/imagenet32/manifest.json"}  # which names other files
    assert planned(two) == set()
    assert stale(two) == set()


@pytest.mark.wide
@pytest.mark.slow
def test_single_runs_and_tables_by_name_and_a_failed_run(project, tmp_path):
    content = paper_params(tmp_path)
    suite = content["suite"]
    keep = {"mebm_cifar10", "mjem_cifar10"}
    suite["datasets"] = {"cifar10": suite["datasets"]["cifar10"]}
    suite["trained"] = {name: entry for name, entry in suite["trained"].items() if name in keep}
    suite["trained"]["mebm_cifar10"]["train"] = {"lr": 1e9, "warmup_iters": 0, "norm": "none", "epochs": 40}
    suite["analysed"] = {}
    folder = project("single", content)

    run(folder, "snakemake", "results/tables/start_paper.md")
    assert not (folder / "results" / "mjem_cifar10").exists()  # no training for this table
    run(folder, "snakemake", "results/summary/mjem_cifar10.json")
    run(folder, "dvc", "repro", "summary@released")
    text = run(folder, "snakemake", "--keep-going", status=1)
    assert "training diverged" in text
    # the table of what there is, with the reason of what is not
    run(folder, "dvc", "repro", "--single-item", "tables@generation")
    table = pd.read_csv(folder / "results" / "tables" / "generation.csv")
    failed = table[table["method"] == "M-EBM, K = 1"]
    assert failed["ours_mean"].isna().all()
    assert failed["note"].str.contains("train failed: training diverged").all()
    assert table[table["method"] == "released M-EBM"]["ours_mean"].notna().all()


@pytest.mark.more
@pytest.mark.slow
def test_the_paper_suite_is_refused_on_a_cpu_before_anything_is_started(project):
    folder = project("paper")
    text = (ROOT / "params.yaml").read_text().replace("suite: *demo ", "suite: *paper ")
    text = text.replace("device: auto ", "device: cpu ")
    (folder / "params.yaml").write_text(text)
    shown = run(folder, "snakemake", status=1)
    assert "18 runs, about" in shown
    assert "and 15 more: more than compute.cpu_hours (2) on this CPU" in shown
    assert "Traceback" not in shown
    assert not list((folder / "data").rglob("*.npz"))
