"""The page: what it shows, of what is missing too, that it needs nothing else, and its bytes."""

import json
import re
import shutil
from fnmatch import fnmatch
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import smoke
import torch
import yaml
from smoke import ROOT

from mebm.analyses.curves import chain_grid, save_animation
from mebm.engine import code, failures
from mebm.errors import DataError
from mebm.figures.grids import save_grid
from mebm.figures.plots import figure, message
from mebm.files import write_json
from mebm.settings.stages import ANALYSIS_STAGES, STAGES, AnalysisSettings
from mebm.show.report.page import Analysis, Table, flat, label, number, read_table, shown, tables_of
from stages import params, report, start, summary, tables

NO_CLASSIFIER = "no classifier: pyx_weight is 0"
SCORE = {"auroc": 0.5, "average_precision": 0.5, "average_precision_by_chance": 0.25, "fpr_at_95_tpr": 0.9}
SCORE |= {"n_in_distribution": 100, "n_other": 300, "status": "ok"}

SKIPPED = {"hidden": 3, "outside": 0, "linked_folders": 0, "other_formats": {".<gif>": 1}}
PICTURES = {"background": [255, 0, 7], "transparent": 4, "several_frames": 0, "to_srgb": 0, "unread_metadata": 0}
PICTURES["skipped"] = SKIPPED
EQUAL = {"train": 2, "test": 0, "across": 5, "other_label": 0}


def pictures(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(256, (n, 1, 8, 8), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def build(folder: Path, content: dict | None = None) -> Path:
    """A results tree as the pipeline leaves it, with little in it, and its report."""
    content = content or smoke.smoke_params()
    suite = content["suite"]
    (folder / "params.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    shutil.copy(ROOT / "dvc.yaml", folder)
    results = folder / "results"
    common = ["--params", str(folder / "params.yaml")]
    assert params.main([*common, "--out", str(results / "params")]) == 0
    common += ["--logs", str(folder / "logs"), "--state", str(folder / "state")]
    for name in suite["datasets"]:
        shape = {"shape": [1, 8, 8], "counts": {"train": 1497, "test": 300}, "labels": list("0123456789")}
        shape |= {"resolution": {"width": [8, 90], "height": [8, 8]}, "pictures": PICTURES, "duplicates": EQUAL}
        write_json(folder / "data" / name / "manifest.json", shape)
        for part, fcd in (("initial", 24.0), ("heldout", 0.25)):
            record = {"fcd": fcd, "classifier_score": 5.0, "n_images": 100, "n_reference": 1497}
            record |= {"reference_split": "train", "features_accuracy": 0.871, "features_warning": "87.1 % is <low>"}
            record |= {"precision": 0.9, "recall": 0.8, "neighbours": 3, "n_features": 100}
            write_json(results / "baseline" / name / f"{part}.json", record)
            save_grid(results / "baseline" / name / f"{part}.png", pictures(100), 10)
    for seed, (name, entry) in enumerate({**suite["trained"], **suite["imported"]}.items()):
        classifies = "train" in entry
        record = {"full": {"fcd": 10.0 - 9 * seed, "classifier_score": 4.0, "n_images": 100}}
        record["full"] |= {"precision": 0.7, "recall": 0.6 if seed else None}
        record["full"] |= {"fid": record["full"].pop("fcd"), "is_mean": 4.0} if suite["tables"] != ["demo"] else {}
        write_json(folder / "quality.json", record)
        accuracy = {"accuracy": 0.9 if classifies else None, "loss": 0.3 if classifies else None, "n_images": 300}
        write_json(folder / "accuracy.json", accuracy)
        argv = ["--run", name, "--quality", str(folder / "quality.json"), "--accuracy", str(folder / "accuracy.json")]
        # 1,497 images in batches of 128, one epoch
        spent = {"iterations": 11, "flops": 2.5e15, "hours": 1.25}
        cost = results / name / "train" / "cost.json"
        write_json(cost, spent if name in suite["trained"] else dict.fromkeys(spent))
        argv += ["--cost", str(cost)]
        assert summary.main([*common, *argv, "--out", str(results / "summary" / f"{name}.json")]) == 0
        save_grid(results / name / "sample" / "grid.png", pictures(100, seed), 10)
        if name in suite["trained"]:
            made = results / name / "analyses" / "curves"
            best = {"value": 0.9, "epoch": 1} if classifies else {"value": None, "epoch": None}
            final = {"energy_gap": -0.5, "accuracy": best["value"]}
            write_json(made / "metrics.json", {"status": "ok", "final": final, "best": {"accuracy": best}})
            for drawn in ("curves", "quality"):
                with figure(made / "figures" / f"{drawn}.svg", 1, 2, (8.5, 3)) as axes:
                    axes[0].plot([0, 1], [1, 0])
            grids = {epoch: chain_grid(pictures(100, epoch)) for epoch in range(3)}
            save_animation(made / "figures" / "buffer.webp", grids, made / "figures" / "buffer.png")
    if "mjem" in suite["analysed"]:
        made = results / "mjem" / "analyses"
        scores = {"accuracy": 0.9, "ece": 0.0123456, "nll": 0.3}
        record = {"status": "ok", "n_bins": 20, "temperature": 1.25, "before": scores, "after": {**scores, "ece": 0.01}}
        write_json(made / "calibration" / "metrics.json", {**record, "test_sha256": "ab" * 32})
        with figure(made / "calibration" / "figures" / "reliability.svg") as axes:
            axes.plot([0, 1], [0, 1])
        record = {"status": "ok", "fcd": 3.0, "class_shares": [0.101] * 10, "warning": "few <images>"}
        record |= {"features_accuracy": 0.871, "features_warning": "87.1 % is <low>"}
        write_json(made / "generate" / "metrics.json", record)
        save_grid(made / "pictures" / "figures" / "best_by_energy.png", pictures(100), 10)
        write_json(made / "pictures" / "metrics.json", {"status": "ok", "energy_mean": 0.5})
        for step in range(0, 100, 10):
            save_grid(made / "generate" / "figures" / f"steps_{step:04d}.png", pictures(100, step), 10)
        write_json(made / "robustness" / "metrics.json", {"status": NO_CLASSIFIER})
        message(made / "robustness" / "figures" / "accuracy.svg", NO_CLASSIFIER)
    failures.note("embedding", "mjem", "out of memory", folder / "state")
    for name in suite["tables"]:
        argv = ["--table", name, "--summary", str(results / "summary"), "--baseline", str(results / "baseline")]
        assert tables.main([*common, *argv, "--out", str(results / "tables")]) == 0
    argv = ["--suite", suite["name"], "--baseline", str(results / "baseline"), "--out", str(results / "tables")]
    assert start.main([*common, *argv]) == 0
    return made_page(folder, suite["name"])


def made_page(folder: Path, suite: str, status: int = 0) -> Path:
    """Make the page of a tree again."""
    page = folder / "results" / suite / "report.html"
    argv = ["--suite", suite, "--params", folder / "params.yaml", "--logs", folder / "logs", "--out", page]
    argv += ["--state", folder / "state"]
    argv += ["--results", folder / "results", "--data", folder / "data"]
    assert report.main([str(word) for word in argv]) == status
    return page


class Outline(HTMLParser):
    """Tags of a page with their attributes, in order, and the text of each heading."""

    def __init__(self, page: Path):
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append((tag, dict(attrs)))

    def all(self, tag: str, key: str) -> list[str]:
        """Values of an attribute of every such tag that has it."""
        return [attrs[key] for name, attrs in self.tags if name == tag and key in attrs]


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tree")
    build(folder)
    return folder


@pytest.fixture(scope="module")
def page(tree) -> Path:
    return tree / "results" / "smoke" / "report.html"


def text_of(page: Path) -> str:
    """The page without the content of its pictures, with single spaces."""
    return re.sub(r"[ \n]+", " ", re.sub(r"base64,[A-Za-z0-9+/=]*", "", page.read_text(encoding="utf-8")))


def test_the_page_needs_nothing_else(page):
    outline, text = Outline(page), text_of(page)
    addresses = outline.all("img", "src") + outline.all("source", "srcset")
    assert len(addresses) >= 20
    assert all(address.startswith("data:image/") for address in addresses)
    assert not [tag for tag, attrs in outline.tags if tag in ("script", "iframe", "object") and "src" in attrs]
    assert "http" not in text.replace("http-equiv", "")
    assert "url(" not in text
    assert "default-src 'none'" in text


def test_every_link_leads_to_a_file_or_into_the_page(page):
    outline = Outline(page)
    ids = [attrs["id"] for _, attrs in outline.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    links = outline.all("a", "href")
    files = [link for link in links if not link.startswith("#")]
    assert any(link.endswith("calibration/figures/reliability.svg") for link in files)
    for link in links:
        assert link[1:] in ids if link.startswith("#") else (page.parent / link).exists(), link


def test_every_picture_has_a_text_alternative_and_headings_are_in_order(page):
    outline = Outline(page)
    alternatives = outline.all("img", "alt")
    assert len(alternatives) == len(outline.all("img", "src"))
    assert all(len(text) > 10 for text in alternatives)
    levels = [int(tag[1]) for tag, _ in outline.tags if tag in ("h1", "h2", "h3", "h4")]
    assert levels.count(1) == 1
    assert all(below <= above + 1 for above, below in pairwise(levels))


def test_below_a_picture_stand_the_commands_that_make_it(page):
    text = text_of(page)
    assert "<code>dvc repro calibration@mjem</code>" in text
    assert "<code>python -m stages.calibration --run mjem --checkpoint results/mjem/train/checkpoint.pt" in text
    assert "<code>dvc repro sample@mebm</code>" in text
    assert "<code>dvc repro report@smoke</code>" in text


def test_what_was_run(page):
    text = text_of(page)
    assert "<code>train.pyx_weight = 1.0</code>" in text
    assert "sklearn_digits" in text
    assert "1\u202f497" in text
    assert f"torch&nbsp;{torch.__version__.split('+')[0]}" in text
    assert '<span class="hours">1.25</span>' in text
    assert text.count('<span class="hardware">') == 1
    assert '<td class="number">11</td>' in text
    assert '<td class="number">2.5</td>' in text


def test_what_the_data_set_was_made_from(page):
    text = text_of(page)
    assert "skipped: 3 hidden, 1 of other formats (.&lt;gif&gt; 1); pictures of 8-90 x 8 pixels; 4 transparent" in text
    assert (
        "laid on [255, 0, 7]; equal images: 2 to train on equal an earlier one, 5 held out equal one to train" in text
    )


def test_what_is_missing_says_why(page):
    text = text_of(page)
    assert "Not here: embedding failed: out of memory." in text
    assert "There is no picture curve.svg." in text  # of an analysis that was run


def test_what_was_not_made_or_does_not_apply_is_left_out(page):
    """neighbours and ood were not run, robustness needs a classifier, and the run mebm is not analysed."""
    ids, links = Outline(page).all("section", "id"), Outline(page).all("a", "href")
    shown = ["curves", "generate", "pictures", "embedding", "calibration"]
    assert [name for name in ids if name.startswith("mjem-")] == [f"mjem-{stage}" for stage in shown]
    assert [link for link in links if link.startswith("#mjem-")] == [f"#mjem-{stage}" for stage in shown]
    assert [name for name in ids if name.startswith("mebm-")] == ["mebm-curves"]
    text = text_of(page)
    for words in ("Accuracy under attack", "o classifier", ">Other images<", "Nearest training images", "not run"):
        assert words not in text, words
    assert "accuracy.svg" not in text
    accuracy = '<th scope="row">best, accuracy ↑</th><td class="number">90 %</td>'
    assert accuracy in text
    start = text.index('id="mebm-curves"')
    assert "accuracy" not in text[start : text.index("</section>", start)]


def test_precision_and_recall_stand_beside_distance_and_score(page):
    text = text_of(page)
    numbers = ("fcd ↓&nbsp;0.25", "classifier score ↑&nbsp;5.00", "precision ↑&nbsp;90 %", "recall ↑&nbsp;80 %")
    assert f"Held-out real images. {', '.join(numbers)}" in text
    numbers = ("fcd ↓&nbsp;1.00", "classifier score ↑&nbsp;4.00", "precision ↑&nbsp;70 %", "recall ↑&nbsp;60 %")
    assert f"Measured: {', '.join(numbers)}, accuracy ↑&nbsp;90.00 %." in text
    assert "precision ↑&nbsp;70 %." in text  # of a run whose recall is null


def test_numbers_conditions_and_warnings_of_an_analysis(page):
    text = text_of(page)
    assert '<td class="short">before</td><td class="number">90 %</td><td class="number">1.235 %</td>' in text
    assert "<dt>n bins</dt><dd>20</dd>" in text
    assert "<dt>test sha256</dt><dd>abababababab</dd>" in text
    assert "Note: few &lt;images&gt;." in text
    assert "Note: 87.1 % is &lt;low&gt;." in text
    assert "<dt>features accuracy</dt><dd>87.1 %</dd>" in text


def test_the_accuracy_of_the_feature_classifier_stands_where_its_distance_does(page):
    text = text_of(page)
    samples, results = (text[text.index(f'<section id="{name}">') :] for name in ("samples", "tables"))
    samples = samples[: len(samples) - len(results)]
    assert "a small classifier, which is right on 87.1 % of the held-out images." in samples
    assert "Warning: 87.1 % is &lt;low&gt;." in samples
    assert "Accuracy of the feature classifier on held-out images: digits, 87.1 %. Warning for digits: 87.1" in results


def test_of_many_steps_some_are_shown_the_first_and_last_among_them(page):
    steps = [alt for alt in Outline(page).all("img", "alt") if alt.startswith("Grid of the same chains after")]
    assert [int(alt.split()[6]) for alt in steps] == [0, 20, 40, 50, 70, 90]


def test_the_overview_holds_the_numbers_that_blocks_name(page):
    text = text_of(page)
    rows = text[text.index("Main numbers of the analyses") : text.index("What was run</h2>")]
    assert '<th scope="row">before, ECE ↓</th><td class="number">1.235 %</td>' in rows
    assert '<th scope="row">final, energy gap</th><td class="number">−0.5</td>' in rows
    assert "<li>Features in two dimensions, mjem: embedding failed: out of memory</li>" in rows
    assert "NLL" not in rows


@pytest.fixture(scope="module")
def unlabelled(tmp_path_factory) -> str:
    """The words of a page whose M-EBM has every analysis, as the stages record it for a run without a classifier."""
    folder = tmp_path_factory.mktemp("unlabelled")
    build(folder)
    found = {
        "calibration": {"status": NO_CLASSIFIER, "n_bins": 20},
        "robustness": {"status": NO_CLASSIFIER, "steps": 20, "clean_accuracy": None},
        "pictures": {"status": "ok", "energy_mean": 0.5, "classes": {"status": NO_CLASSIFIER}},
        "embedding": {
            "status": "ok",
            "sources": {"silhouette": 0.01},
            "classes": {"status": "no labels"},
            "intrusion": {"status": "no labels"},
        },
        "ood": {
            "status": "ok",
            "bn_stats": "running",
            "batch_size": 100,
            "others": {
                "mnist": {"status": "the run's own held-out images", "part": "test"},
                "noise": {"n_images": 500},
            },
            "negative_energy": {"digits": SCORE | {"auroc": 0.2219}, "noise": SCORE | {"auroc": 0.0}, "flat": SCORE},
            "negative_gradient_norm": {"digits": SCORE, "noise": SCORE, "flat": SCORE | {"auroc": 0.4}},
            "class_probability": {"status": NO_CLASSIFIER},
        },
    }
    for stage, record in found.items():
        made = folder / "results" / "mebm" / "analyses" / stage
        write_json(made / "metrics.json", record)
        for name in ("energies.svg", "auroc.svg", "sources.svg", "classes.svg", "reliability.svg", "accuracy.svg"):
            message(made / "figures" / name, "drawn")
        for name in ("best_by_energy.png", "worst_by_energy.png"):
            save_grid(made / "figures" / name, pictures(100), 10)
    none = {"fcd": None, "classifier_score": None, "n_images": 0, "status": "no held-out images: all train"}
    write_json(folder / "results" / "baseline" / "digits" / "heldout.json", none)
    by_inception = {"fid": 24.0, "is_mean": 5.0, "n_images": 100}  # without labels there is no classifier of features
    write_json(folder / "results" / "baseline" / "digits" / "initial.json", by_inception)
    return text_of(made_page(folder, "smoke"))


def block_of(text: str, name: str) -> str:
    start = text.index(f'id="{name}"')
    return text[start : text.index("</section>", start)]


def test_a_run_without_a_classifier_has_no_sections_of_one(unlabelled):
    for stage in ("calibration", "robustness"):
        assert f'"mebm-{stage}"' not in unlabelled
        assert f'"#mebm-{stage}"' not in unlabelled
    for stage in ("curves", "pictures", "embedding", "ood"):
        assert unlabelled.count(f'href="#mebm-{stage}"') == unlabelled.count(f'id="mebm-{stage}"') == 1
        for words in ("lassifier", "no labels", "robability", "status", "accuracy", "predicted class", "no picture"):
            assert stage == "curves" or words not in block_of(unlabelled, f"mebm-{stage}"), (stage, words)
    assert "classes.svg" not in block_of(unlabelled, "mebm-embedding")
    assert "sources.svg" in block_of(unlabelled, "mebm-embedding")
    assert "own held-out images" not in block_of(unlabelled, "mebm-ood")
    # in the overview the run mjem has the calibration, and a line says why mebm has dashes
    assert f"<li>Calibration, mebm: {NO_CLASSIFIER}</li>" in unlabelled
    assert "Accuracy under attack" not in unlabelled


def test_a_data_set_without_held_out_images_shows_none(unlabelled, page):
    samples = block_of(unlabelled, "samples")
    assert "eld-out" not in samples
    assert "no model was trained on" not in samples
    assert "no model was trained on" in block_of(text_of(page), "samples")
    assert "Held-out real images. fcd ↓&nbsp;0.25" in block_of(text_of(page), "samples")


def test_below_one_half_a_sentence_says_what_that_means_and_with_which_statistics(unlabelled):
    block = block_of(unlabelled, "mebm-ood")
    assert "with running statistics of BatchNorm" in block
    said = "AUROC below 0.5: with running statistics the model gives images of "
    assert f"{said}digits (0.2219) and noise (0) lower energy than held-out images of its own." in block
    assert f"{said}flat (0.4) a smaller gradient norm than held-out images of its own." in block
    assert block.count("AUROC below 0.5") == 2
    assert block.count("The score is reversed there") == 2


def test_counts_and_chance_stand_beside_the_average_precision(unlabelled):
    block = block_of(unlabelled, "mebm-ood")
    heads = (
        "AUROC ↑",
        "average precision ↑",
        "average precision by chance",
        "FPR at 95 % TPR ↓",
        "own images",
        "other images",
    )
    cells = "".join(f'<th scope="col" class="number">{head}</th>' for head in heads)
    assert block.count(cells) == 2
    row = "".join(f'<td class="number">{cell}</td>' for cell in ("0.2219", "0.5", "0.25", "90 %", "100", "300"))
    assert f'<td class="short">digits</td>{row}' in block


# The numbers of each stage's records as it writes them: on the small classifier's features, and on Inception's.
QUALITY = {"accuracy": 0.9, "confidence": 0.8, "ece": 0.1, "adaptive_ece": 0.1, "nll": 0.3, "brier": 0.2}
NEAR = {"mean": 2.0, "median": 2.0, "smallest": 1.0}
BEST = {"value": 0.5, "epoch": 15}
RECORDS = {
    "curves": [
        {
            "final": {"energy_gap": -0.01, "grad_norm": 0.2, "accuracy": 0.9, "test_loss": 0.1, name: 0.5, score: 6.0},
            "best": {"accuracy": BEST, "test_loss": BEST, name: BEST, score: BEST},
        }
        for name, score in (("fcd", "classifier_score"), ("fid", "is_mean"))
    ],
    "generate": [
        {"best_step": 90, "best_distance": 0.8, name: 0.8, score: 5.5, "precision": 0.7, "recall": 0.6}
        | {"energy_mean": -0.1, "class_shares": [0.5, 0.5]}
        for name, score in (("fcd", "classifier_score"), ("fid", "is_mean"))
    ],
    "pictures": [{"energy_mean": 0.1, "energy_std": 0.1, "classes": {"class_entropy": 2.3, "mean_probability": 0.9}}],
    "neighbours": [
        {space: {"distance": "Euclidean", "samples": NEAR, "references": NEAR, "copies": 0}}
        for space in ("pixels", "features")
    ],
    "embedding": [
        {
            "sources": {"buffer_near_data": 0.5, "knn_accuracy": 0.6, "silhouette": 0.01},
            "classes": {"status": "ok", "n_classes": 10, "knn_accuracy": 0.9, "silhouette": 0.5},
            "intrusion": {"status": "ok", "buffer": 0.07, "data": 0.02},
            "energy": {"data": {"mean": 0.1, "std": 0.1}},
        }
    ],
    "ood": [
        {
            "in_distribution": {"n_images": 500, "energy_mean": 0.1, "energy_std": 0.1},
            "others": {"digits": {"status": "ok", "sha256": "cd" * 32, "n_images": 500, "energy_mean": 0.8}},
            "negative_energy": {"digits": SCORE, "noise": SCORE},
        }
    ],
    "calibration": [{"all": QUALITY, "temperature": 1.04, "before": QUALITY, "after": QUALITY}],
    "robustness": [
        {
            "clean_accuracy": 0.98,
            "linf": [{"radius": 8.0, "accuracy": 0.96}, {"radius": 16.0, "accuracy": 0.78}],
            "l2": [{"radius": 0.5, "accuracy": 0.79}, {"radius": 1.0, "accuracy": 0.13}],
        }
    ],
}


def test_every_number_that_a_block_names_is_one_that_its_stage_writes():
    files = sorted((ROOT / "mebm" / "show" / "report" / "blocks").iterdir())
    text = "".join(path.read_text(encoding="utf-8") for path in files)
    blocks = re.findall(r'block\(run, "(\w+)", "[^"]+", \(([^)]*)\)\)', text)
    assert [f"{stage}.html.j2" for stage, _ in blocks] == [path.name for path in files]
    assert {stage for stage, _ in blocks} == set(RECORDS), "a block and an example of its stage's record go together"
    for stage, keys in blocks:
        numbers = {path for record in RECORDS[stage] for path, value in flat(record).items() if type(value) is not list}
        for key in re.findall(r'"([^"]+)"', keys):
            assert any(fnmatch(path, key) for path in numbers), f"{stage}: nothing is called {key}"


def test_the_tables_of_an_attack_say_their_norm_and_sets_leave_hashes_to_the_conditions(tmp_path):
    for stage in ("robustness", "ood"):
        record = {"status": "ok", "seed": 0, **RECORDS[stage][0]}
        write_json(tmp_path / stage / "metrics.json", record)
    attack, others = (
        Analysis(tmp_path / stage, tmp_path / "page", "", "", set(), "") for stage in ("robustness", "ood")
    )
    assert [table.head for table in attack.tables[1:]] == [("L∞, radius", "accuracy ↑"), ("L2, radius", "accuracy ↑")]
    words = [cell for table in others.tables for cells in (table.head, *table.rows) for cell in cells]
    assert "ok" not in words
    assert not any("sha256" in word or "cdcd" in word for word in words)
    assert ("others, digits, sha256", "cd" * 6) in others.conditions


def test_what_was_not_measured_is_not_in_a_caption(page):
    text = text_of(page)
    start = {name: text.index(f'id="{name}-curves"') for name in ("mebm", "mjem")}
    assert "Held-out accuracy, and distance and score of chains" in text[start["mjem"] :][:4000]
    assert "Distance and score of chains" in text[start["mebm"] :][:4000]
    assert "eld-out accuracy" not in text[start["mebm"] :][:4000]


def test_same_results_same_bytes_but_for_the_hours(tree, page):
    first = page.read_bytes()
    assert made_page(tree, "smoke").read_bytes() == first
    cost = tree / "results" / "mjem" / "train" / "cost.json"
    before = cost.read_text()
    cost.write_text(before.replace("1.25", "3.75"))
    second = made_page(tree, "smoke").read_bytes()
    cost.write_text(before)
    assert second != first
    assert second.replace(b'"hours">3.75<', b'"hours">1.25<') == first
    assert str(tree).encode() not in first


def test_a_published_figure_stands_beside_ours_and_names_are_escaped(tmp_path):
    content = smoke.smoke_params()
    suite = content["suite"]
    suite["tables"] = ["generation", "steps"]
    suite["trained"]["mebm"]["method"] = "<script>alert('M-EBM')</script>"
    suite["imported"] = {"released": {"method": "released", "dataset": "digits", "checkpoint": "data/r.pt"}}
    suite["datasets"] = {"digits": {"dataset": {"source": "cifar10", "image_size": 32}}}
    text = text_of(build(tmp_path, content))
    assert '<td class="short">M-JEM</td><td class="short">FID ↓</td><td class="number">10.38</td>' in text
    assert "for ours, add release_10000 to sample.protocols" in text
    assert "Protocol release_R, the public release&#39;s: of each predicted class" in text
    assert "arXiv 2208.07791" in text  # the source of a competing method
    assert '<span class="hours">1.25</span>' in text  # of the table of steps, too
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(&#39;M-EBM&#39;)&lt;/script&gt;" in text
    assert 'id="run-released"' in text
    assert 'id="released-curves"' not in text


def test_a_page_of_nothing_is_still_a_page(tmp_path):
    build(tmp_path)
    for part in ("baseline", "mebm", "mjem", "summary", "tables"):
        shutil.rmtree(tmp_path / "results" / part)
    shutil.rmtree(tmp_path / "data")
    text = text_of(made_page(tmp_path, "smoke"))
    assert "There is no picture grid.png." in text
    assert "not run" not in text
    outline = Outline(tmp_path / "results" / "smoke" / "report.html")
    assert [name for name in outline.all("section", "id") if not name.startswith("run-")] == [
        *("samples", "analyses", "setup", "runs", "mjem-embedding")
    ]
    assert not {"#tables", "#mjem-ood"} & set(outline.all("a", "href"))
    failures.forget("embedding", "mjem", tmp_path / "state")
    outline = Outline(made_page(tmp_path, "smoke"))
    assert "analyses" not in outline.all("section", "id")
    assert "#analyses" not in outline.all("a", "href")
    assert [attrs for tag, attrs in outline.tags if tag == "p" and attrs.get("class") == "jump"] == []


def test_what_cannot_be_read_ends_in_one_line(tmp_path, capsys):
    build(tmp_path)
    record = tmp_path / "results" / "mjem" / "analyses" / "calibration" / "metrics.json"
    record.write_text("{")
    capsys.readouterr()
    made_page(tmp_path, "smoke", status=1)
    assert "calibration/metrics.json: is not valid JSON" in capsys.readouterr().err
    record.unlink()
    (tmp_path / "results" / "params" / "all.yaml").unlink()
    made_page(tmp_path, "smoke", status=1)
    assert "all.yaml: no such file" in capsys.readouterr().err


def test_an_analysis_without_a_block_is_shown_all_the_same(tmp_path, monkeypatch):
    for stages in (ANALYSIS_STAGES, STAGES):
        monkeypatch.setitem(stages, "brightness", AnalysisSettings)
    monkeypatch.setattr(code, "of_stage", lambda *_, **__: {})  # it has no module
    made = tmp_path / "results" / "mjem" / "analyses" / "brightness"
    write_json(made / "metrics.json", {"status": "ok", "buffer": {"mean": 0.5}, "data": {"mean": 0.25}})
    with figure(made / "figures" / "means.svg") as axes:
        axes.plot([0, 1])
    text = text_of(build(tmp_path))
    assert '<section class="block" id="mjem-brightness"> <h4>Brightness</h4>' in text
    assert 'alt="Picture means.svg of the analysis brightness of mjem"' in text
    assert '<th scope="row">buffer, mean</th><td class="number">0.5</td>' in text


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({}, []),
        ({"a": 1, "b_c": 0.25}, [Table(("", "value"), (("a", "1"), ("b c", "0.25")))]),
        ({"x": {"ece": 0.5}, "y": 2}, [Table(("", "value"), (("x, ECE ↓", "50 %"), ("y", "2")))]),
        (
            {"before": {"ece": 0.5, "n": 3}, "after": {"ece": None}},
            [Table(("", "ECE ↓", "n"), (("before", "50 %", "3"), ("after", "–", "–")))],
        ),
        (
            {"linf": {"radius": [8.0, 16.0], "accuracy": [0.5, 0.25]}},
            [Table(("L∞, radius", "L∞, accuracy ↑"), (("8", "50 %"), ("16", "25 %")))],
        ),
        ({"rows": [{"set": "a", "n": 1}, {"set": "b"}]}, [Table(("rows, set", "n"), (("a", "1"), ("b", "–")))]),
        ({"l2": [{"radius": 0.5, "accuracy": 1}]}, [Table(("L2, radius", "accuracy ↑"), (("0.5", "100 %"),))]),
        (
            {"a": {"n": 1, "status": "ok", "sha256": "ab"}, "b": {"n": 2, "status": "ok"}},
            [Table(("", "n"), (("a", "1"), ("b", "2")))],
        ),
        (
            {"a": {"n": 1, "status": "ok"}, "b": {"n": None, "status": "none"}},
            [Table(("", "n", "status"), (("a", "1", "ok"), ("b", "–", "none")))],
        ),
        ({"a": {"status": "ok", "n": 1}, "b": 2}, [Table(("", "value"), (("a, n", "1"), ("b", "2")))]),
        ({"a": {"status": "none"}, "b": 2}, [Table(("", "value"), (("a, status", "none"), ("b", "2")))]),
        ({"a": {"status": "ok"}, "b": {"status": "ok"}}, []),
        ({"one": [1, 2], "two": [3]}, [Table(("", "value"), (("one", "1, 2"), ("two", "3")))]),
        ({"deep": {"a": {"b": {"c": 1}}}}, [Table(("", "value"), (("deep, a, b, c", "1"),))]),
        ({"best": {"x": 1, "y": 2, "z": 3}}, [Table(("best", "value"), (("x", "1"), ("y", "2"), ("z", "3")))]),
        ({"empty": {}, "none": []}, [Table(("", "value"), (("none", "–"),))]),
    ],
)
def test_nested_numbers_become_tables(record, expected):
    assert tables_of(record) == expected


def test_any_nesting_becomes_tables_that_lose_no_number():
    rng = np.random.default_rng(0)

    def nested(depth: int) -> object:
        if depth == 0 or rng.random() < 0.3:
            return int(rng.integers(1_000_000_000))
        kind = rng.integers(3)
        if kind == 0:
            return [nested(0) for _ in range(rng.integers(4))]
        return {f"k{i}": nested(depth - 1) for i in range(rng.integers(1, 4))}

    def numbers(value: object) -> list[int]:
        if isinstance(value, int):
            return [value]
        return [n for item in (value.values() if isinstance(value, dict) else value) for n in numbers(item)]

    for _ in range(200):
        record = {f"top{i}": nested(3) for i in range(3)}
        text = json.dumps([table.rows for table in tables_of(record)], ensure_ascii=False)
        for found in numbers(record):
            assert shown(found) in text, record


def test_words_for_values():
    assert label("before.adaptive_ece") == "before, adaptive ECE ↓"
    assert label("best.fcd.value") == "best, fcd ↓"
    assert flat({"a": {"b": {"c": 1}}, "d": [1]}) == {"a.b.c": 1, "d": [1]}
    radii = {"l2": [{"radius": 0.5, "accuracy": 1}, {"radius": 1.0, "accuracy": 0}]}
    assert flat(radii) == {"l2[radius 0.5].accuracy": 1, "l2[radius 1].accuracy": 0}
    assert label("l2[radius 0.5].accuracy") == "L2, radius 0.5, accuracy ↑"
    assert label("best.fcd.epoch") == "best, fcd, epoch"
    assert number("before.ece", 0.25) == "25 %"
    assert (number("ece", None), number("n_images", 3), number("auroc", 0.5)) == ("–", "3", "0.5")
    for unnamed in ([{"a": 1}, {"a": 1}], [{"a": 1}, {"b": 2}], [{"a": None, "b": 1}], [{}], []):
        assert flat({"x": unnamed}) == {"x": unnamed}
    values = {None: "–", -1234567: "−1\u202f234\u202f567", 0.000123456: "0.0001235", -2.0: "−2", "ok": "ok"}
    assert {value: shown(value) for value in values} == values
    assert (shown(True), shown([]), shown({"a": 1}), shown("0f" * 32)) == ("yes", "–", "a 1", "0f0f0f0f0f0f")
    assert shown([float(i) for i in range(40)]) == "0 … 39 (40 values)"


def test_a_table_that_is_none(tmp_path):
    path = tmp_path / "t.md"
    for text in ("", "a,b\n1\n"):
        path.write_text(text)
        with pytest.raises(DataError, match=r"t\.md: is not a table with its caption; delete it and run the tables"):
            read_table(path)
    path.write_text("| a | b, c | d |\n| --- | --- | --- |\n| – | 0.48 ± 0.02 | – |\n| 1 | x | 2 |\n\nSaid.\n")
    table, caption = read_table(path)
    assert caption == "Said."
    assert table.head == ("a", "b, c", "d")
    assert table.numeric == (True, False, True)
