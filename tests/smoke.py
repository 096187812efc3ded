"""A parameter file that runs the whole chain on scikit-learn's 8x8 digits in seconds."""

from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent


def smoke_params() -> dict:
    """The project's params.yaml with small values, as plain data."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["dataset"] |= {"source": "sklearn_digits", "image_size": 8, "n_test": 300}
    params["features"] |= {"width": 8, "epochs": 1}
    params["baseline"] |= {"n_images": 100}
    params["train"] |= {"width": 1, "epochs": 1, "buffer_size": 100, "n_steps": 2, "warmup_iters": 2}
    params["train"] |= {"log_every": 5, "grid_every": 1}
    runs = {
        "mebm": {"method": "M-EBM", "dataset": "digits"},
        "mjem": {"method": "M-JEM", "dataset": "digits", "train": {"pyx_weight": 1.0}},
    }
    suite = {"name": "smoke", "datasets": {"digits": {}}, "runs": runs}
    return params | {"suites": {}, "suite": suite}
