"""The suites of docs/suites.md and docs/method.md, put into the project's parameter file as they stand, are what both
engines run, and hold the values that the pages promise.
"""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from engines import copy_project, planned, run
from PIL import Image
from recorded import record_as_done
from smoke import ROOT

from mebm.engine.graph import Graph
from mebm.settings.schema import SECTIONS
from mebm.settings.stages import RUN_STAGES
from mebm.settings.suite import Params, load_params
from mebm.show.rows import published

PAGES = {page: (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8") for page in ("suites", "method", "data")}


def suites(*pages: str) -> dict[str, tuple[str, str]]:
    """Each suite of the pages and the line that picks it, by name."""
    blocks = [block for page in pages for block in re.findall(r"```yaml\n(.*?)```", PAGES[page], re.DOTALL)]
    pairs = zip(blocks[::2], blocks[1::2], strict=True)
    return {line.split("*")[1].strip(): (suite, line) for suite, line in pairs}


def put(folder: Path, name: str) -> None:
    """The project's parameter file with that suite in it, as the pages say."""
    suite, line = suites("suites", "method")[name]
    text = (ROOT / "params.yaml").read_text(encoding="utf-8")
    text = text.replace("\nsuites:\n", f"\nsuites:\n{suite}\n")
    (folder / "params.yaml").write_text(re.sub(r"^suite: \*demo .*\n", line, text, flags=re.MULTILINE))


def loaded(folder: Path, name: str) -> Params:
    """The checked parameters with that suite in use."""
    put(folder, name)
    found = load_params(folder / "params.yaml")
    assert found.suite == name
    return found


def test_the_pages_hold_seven_suites():
    assert set(suites("suites")) == {"flowers", "numbers", "smoke", "released", "averaged", "chosen"}
    assert set(suites("method")) == {"release"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "averaged" else pytest.mark.more) for name in suites("suites", "method")],
)
def test_both_engines_run_the_suite_of_the_page(tmp_path, name):
    folder = copy_project(tmp_path / "project")
    (folder / "data" / "downloads").mkdir(parents=True)
    (folder / "data" / "downloads" / "mjem.pt").touch()
    params = loaded(folder, name)
    jobs = {f"{stage}@{of}" for stage, of in params.jobs()} | {"params"}
    names = {  # DVC's, where jobs that trained runs have as well are called otherwise
        f"{stage}_imported@{of}" if of in params.imported and stage in RUN_STAGES else f"{stage}@{of}"
        for stage, of in params.jobs()
    }
    table = "demo" if name == "smoke" else "generation"
    assert {f"tables@{table}", f"report@{name}"} < jobs
    assert set(run(folder, "dvc", "stage", "list", "--name-only").split()) == names | {"params"}
    assert planned(folder) == jobs


def test_a_run_of_averaged_weights_waits_for_the_training_of_the_page(tmp_path):
    folder = copy_project(tmp_path / "project")
    params = loaded(folder, "averaged")
    made = params.resolve("import_checkpoint", "mjem_svhn_ema")
    assert (made.weights.ema_decay, made.train) == (0.999, params.resolve("train", "mjem_svhn").train)
    order = [job.address for job in Graph(folder / "dvc.yaml", params).ordered()]
    wanted = ("train@mjem_svhn", "import_checkpoint@mjem_svhn_ema", "sample_imported@mjem_svhn_ema")
    assert [address for address in order if address in wanted] == list(wanted)


def test_the_smallest_suite_is_that_of_the_page():
    assert list(yaml.safe_load(suites("suites")["flowers"][0])["flowers"]) == ["name", "datasets", "trained", "tables"]


def test_the_data_set_of_the_page_is_made_from_a_folder_of_pictures(tmp_path):
    folder = copy_project(tmp_path / "project")
    put(folder, "flowers")
    (folder / "pictures" / "flowers").mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (110, 40, 48, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / "pictures" / "flowers" / f"{number}.png")
    run(folder, sys.executable, "-m", "stages.dataset", "--dataset", "flowers", "--out", "out")
    with np.load(folder / "out" / "train.npz") as train, np.load(folder / "out" / "test.npz") as test:
        assert train["images"].shape == (10, 3, 32, 32)
        assert test["images"].shape == (100, 3, 32, 32)


def test_analyses_need_no_images_to_compare_with(project, smoke_params):
    """The folder of such images is there and empty, for DVC as for Snakemake."""
    del smoke_params["suite"]["compared"]
    folder = project("alone", smoke_params)
    assert "ood@mjem" in planned(folder)
    record_as_done(folder)
    assert planned(folder) == set()
    assert "changed deps" not in str(json.loads(run(folder, "dvc", "status", "--json", "ood@mjem") or "{}"))


# ---------------------------------------------------------------- what stands beside published figures


def test_an_imported_checkpoint_is_a_row_of_its_own_that_classifies(tmp_path):
    params = loaded(tmp_path, "released")
    rows = params.resolve("tables", "generation").runs
    assert {name: (row.method, row.imported, row.classifies) for name, row in rows.items()} == {
        "mjem_cifar10": ("M-JEM", False, True),
        "released_mjem": ("M-JEM (release)", True, True),
    }
    protocols = ["full", "release_0.9", "release_10000"]
    assert {tuple(row.protocols) for row in rows.values()} == {tuple(protocols)}
    assert params.resolve("sample", "released_mjem").sample.protocols == protocols


def test_the_imported_run_of_the_data_page_goes_into_the_paper_suite(tmp_path):
    (block,) = re.findall(r"^    imported:\n(?:      .*\n)+", PAGES["data"], re.MULTILINE)
    text = (ROOT / "params.yaml").read_text(encoding="utf-8").replace("\nsuite: *demo ", "\nsuite: *paper ")
    assert text.count("    imported: {}\n") == 1  # of the paper suite; that of the demo is followed by a comment
    path = tmp_path / "params.yaml"
    path.write_text(text.replace("    imported: {}\n", block))
    row = load_params(path).resolve("tables", "generation").runs["released_mjem"]
    assert (row.method, row.imported, row.classifies) == ("M-JEM (release)", True, True)


def test_the_paper_suite_meets_every_published_protocol_and_selects_by_no_untrained_head(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text(encoding="utf-8").replace("\nsuite: *demo ", "\nsuite: *paper "))
    params, figures = load_params(path), published()
    rows, titles = (getattr(params.resolve("tables", "generation"), key) for key in ("runs", "datasets"))
    figures = figures[(figures.our_protocol != "")]
    assert len(figures) == 4
    for row in rows.values():
        of = figures[(figures.our_method == row.method) & (figures.dataset == titles[row.dataset])]
        assert set(of.our_protocol) <= set(row.protocols), row
        assert row.protocols == ["full"] or row.classifies, row
    assert {row.method for row in rows.values() if len(row.protocols) == 3} == {"M-JEM"}


RELEASE = {  # stage, name: the values of sections
    ("train", "mjem_cifar10"): {
        "train": {
            **{"n_steps": 5, "step_size": 1.0, "noise_std": 0.0, "l2_coeff": 0.5, "px_weight": 1.0, "pyx_weight": 1.0},
            **{"depth": 28, "width": 10, "norm": "batch", "head": "energy", "init": "gaussian", "dropout": 0.0},
            **{"buffer_size": 10_000, "reinit_freq": 0.05, "grad_bound": 1.0, "batch_size": 64, "grid_every": 1},
            **{"optimiser": "sgd", "lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "warmup_iters": 1000},
            **{"epochs": 200, "decay_epochs": [60, 120, 180], "decay_factor": 0.2, "label_batch_size": 128},
            **{"augment_pad": 4, "augment_flip": True},
        }
    },
    ("sample", "mjem_cifar10"): {"sample": {"protocols": ["full", "release_0.9", "release_10000"]}},
    ("quality", "mjem_cifar10"): {"quality": {"score_splits": 10, "permutation_seed": 2020}},
    ("features", "cifar10"): {"features": {"network": "inception", "preprocessing": "tf1"}},
    ("dataset", "cifar10"): {"dataset": {"source": "cifar10", "evaluate_on": "test"}},
    ("train", "mjem_cifar10_script"): {"train": {"noise_std": 0.001, "pyx_weight": 1.0, "n_steps": 5, "l2_coeff": 0.5}},
    ("train", "mebm_cifar10_k2"): {"train": {"noise_std": 0.0, "pyx_weight": 0.0, "n_steps": 2, "l2_coeff": 0.1}},
    ("train", "mebm_cifar10_k5"): {"train": {"noise_std": 0.001, "pyx_weight": 0.0, "n_steps": 5, "l2_coeff": 0.5}},
    ("train", "mebm_celeba_hq"): {
        "train": {
            **{
                "noise_std": 0.0,
                "pyx_weight": 0.0,
                "n_steps": 10,
                "l2_coeff": 0.0,
                "lr": 0.02,
                "width": 2,
                "depth": 28,
            },
            **{"decay_epochs": [80, 120, 160], "epochs": 200, "batch_size": 64, "warmup_iters": 1000},
        }
    },
    ("generate", "mjem_cifar10"): {
        "generate": {
            **{
                "count": 100,
                "steps": 400,
                "batch_size": 100,
                "bn_stats": "batch",
                "noise_std": 0.0,
                "grad_bound": None,
            },
            "grid_every": 10,
        }
    },
    ("ood", "mjem_cifar10"): {"ood": {"n_images": 26_032}},
    ("embedding", "mjem_cifar10"): {"embedding": {"n_images": 1000}},
    ("calibration", "mjem_cifar10"): {"calibration": {"n_bins": 20}},
    ("dataset", "imagenet32_val"): {"dataset": {"source": "image_folder", "image_size": 32, "n_test": 0}},
    ("dataset", "celeba_hq"): {"dataset": {"source": "celeba_hq", "image_size": 128, "n_test": 0}},
    ("gaussian", "cifar10"): {"gaussian": {"ridge": 1e-4}},
    ("baseline", "cifar10"): {"baseline": {"n_images": 10_000}},
}


def test_the_releases_settings_are_those_of_the_page(tmp_path):
    params = loaded(tmp_path, "release")
    for (stage, name), sections in RELEASE.items():
        settings = params.resolve(stage, name)
        for section, values in sections.items():
            found = getattr(settings, section).model_dump()
            assert {key: found[key] for key in values} == values, (stage, name)
    assert set(params.resolve("tables", "generation").runs) == {name for stage, name in RELEASE if stage == "train"}
    assert {row.evaluate_on for row in params.resolve("tables", "generation").runs.values()} == {"test"}
    assert set(params.resolve("ood", "mjem_cifar10").compared) == {"svhn", "cifar100"}


def test_the_releases_suite_has_a_row_for_every_published_figure(tmp_path):
    """But that of ImageNet 32x32, which it measured on other images: its row has another name."""
    params, figures = loaded(tmp_path, "release"), published()
    settings = params.resolve("tables", "generation")
    runs = {(settings.datasets[row.dataset], row.method): row.protocols for row in settings.runs.values()}
    for figure in figures[figures.our_method != ""].itertuples():
        if figure.our_method == "M-JEM":
            assert figure.our_protocol in ("", *runs[figure.dataset, figure.our_method]), figure
        elif figure.dataset != "ImageNet 32x32":
            assert figure.dataset in settings.datasets.values()


def differences() -> list[list[str]]:
    """Rows of the page's tables of differences: what, the release, here, why, as in the release."""
    page = PAGES["method"]
    part = page[page.index("## Where this differs from the public release") : page.index("## The release's settings")]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in part.splitlines() if line.startswith("| ")
    ]
    return [row for row in rows if row[0] and set(row[0]) != {"-"}]


# What the release does otherwise, found by reading it: a word of the row's name, and what the row must say of it.
KNOWN = {
    "noise at K = 5": ("0 in its README, 0.001", "noise_std: 0.0"),
    "M-EBM command": ("--pyx 1.0", "pyx_weight: 1.0"),
    "noise of new samples": ("0", "as in training", "noise_std: 0.0"),
    "which weights": ("*test* split", "last epoch", "best"),
    "ImageNet 32x32": ("validation split", "training split"),
    "out-of-distribution: interpolations": ("9,900", "floats"),
    "out-of-distribution: CelebA": ("32x39",),
    "out-of-distribution: statistics": ("running",),
    "best and worst": ("log-sum-exp", "without labels"),
    "selection by class": ("multiple of 100", "release_0.9"),
    "pixels to bytes": ("truncated", "rounded"),
    "t-SNE": ("first 1,000 chains",),
    "CelebA-HQ": ("(mean E(x⁺))²",),
    "warm-up": ("divide by zero", "decay"),
    "divergence": ("not a number",),
    "checkpoints": ("discards the buffer", "optimiser is never saved"),
    "image size": ("32",),
    "picked twice": ("undefined", "last"),
    "statistics when ranking": ("training mode", "running"),
    "labelled images": ("every iteration",),
    "FID during training": ("10 %", "90 %"),
    "initial distributions": ("constants",),
    "number of new samples": ("400", "1,000", "100"),
}


@pytest.mark.parametrize("name", KNOWN)
def test_every_known_difference_has_a_row(name):
    (row,) = [row for row in differences() if name in row[0]]
    assert len(row) == 5, row
    for words in KNOWN[name]:
        assert words in " ".join(row[1:]), words


def test_settings_that_a_difference_names_are_settings():
    said = [row[4] for row in differences() if "`" in row[4]]
    assert len(said) > 8
    for text in said:
        for section, values in re.findall(r"`(\w+): (\{.*?\})`", text):
            for key, value in yaml.safe_load(values).items():
                shared = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))[section]
                SECTIONS[section].model_validate({**shared, key: value})
