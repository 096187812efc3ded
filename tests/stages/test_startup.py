"""What stages load at their start: seconds for packages that they do not use would be paid in every job."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import smoke

from mebm.data.archives import save_images

HEAVY = ("numpy", "pandas", "torch", "scipy", "sklearn", "matplotlib", "PIL", "mlxtend", "torchvision")
HEAVY += ("torch._dynamo", "torch._inductor", "sympy", "tensorboard", "jinja2", "pooch", "dvc", "snakemake", "networkx")
HEAVY += ("safetensors",)
TORCH = frozenset({"numpy", "torch"})
# Of HEAVY, what each stage may load before it works. Packages that bring others count with them.
LOADS = {
    **dict.fromkeys(("inventory", "metrics", "params", "summary"), frozenset()),
    **dict.fromkeys(("compared", "dataset"), frozenset({"numpy"})),
    **dict.fromkeys(("report", "start", "tables"), frozenset({"numpy", "pandas"})),
    **dict.fromkeys(("accuracy", "baseline", "features", "gaussian", "generate", "import_checkpoint"), TORCH),
    **dict.fromkeys(("pictures", "quality", "reference", "robustness", "sample", "train"), TORCH),
    "calibration": TORCH | {"scipy"},
    "curves": TORCH | {"pandas"},
    "neighbours": TORCH | {"matplotlib", "PIL"},
    "embedding": TORCH | {"matplotlib", "pandas", "PIL", "scipy", "sklearn"},
    "ood": TORCH | {"pandas", "scipy", "sklearn"},
}
# A child for each stage, with what all share: stages.cli, which is what the first group has, and torch for most.
SCRIPT = """
import importlib, json, os, sys
import stages.cli

heavy, stages = json.loads(sys.argv[1]), json.loads(sys.argv[2])
for stage, first in stages.items():
    if first:
        importlib.import_module(first)
    if not os.fork():
        importlib.import_module(f"stages.{stage}")
        print(json.dumps([stage, [name for name in heavy if name in sys.modules]]), flush=True)
        os._exit(0)
    os.wait()
"""


def loaded(stages: dict[str, str]) -> dict[str, set[str]]:
    """What of HEAVY each stage has loaded after its import. stages: by name, what to import before."""
    words = [sys.executable, "-c", SCRIPT, json.dumps(HEAVY), json.dumps(stages)]
    done = subprocess.run(words, cwd=smoke.ROOT, capture_output=True, text=True, check=True)
    return {stage: set(found) for stage, found in map(json.loads, done.stdout.splitlines())}


@pytest.mark.more
def test_stages_load_what_they_use():
    found = {path.stem for path in (smoke.ROOT / "stages").glob("*.py")} - {"__init__", "cli", "looks"}
    assert found == set(LOADS)
    stages = {stage: "torch" if "torch" in LOADS[stage] else "" for stage in LOADS}
    assert loaded(stages) == LOADS


def test_work_loads_no_compiler(tmp_path):
    """Optimisers do (`features` and `train`); what only computes has no use for it, nor has determinism on CUDA."""
    script = (
        "import sys, torch\n"
        "from mebm.settings.schema import Compute\n"
        "from mebm.training.devices import device_for\n"
        "from stages import gaussian\n"
        "assert gaussian.main(['--dataset', 'digits', '--train', 'train.npz', '--out', 'gaussian.npz']) == 0\n"
        "torch.cuda.is_available = lambda: True\n"  # as on a machine with a GPU
        "for wanted in (True, False):\n"
        "    device_for(Compute(**eval(sys.argv[1]), deterministic=wanted))\n"
        "    assert torch.are_deterministic_algorithms_enabled() is wanted\n"
        "    assert torch.backends.cudnn.benchmark is not wanted\n"
        "print(*[name for name in ('torch._dynamo', 'torch._inductor', 'sympy') if name in sys.modules])\n"
    )
    params = smoke.smoke_params()
    compute = {key: value for key, value in params["compute"].items() if key != "deterministic"} | {"device": "cpu"}
    (tmp_path / "params.yaml").write_text(json.dumps(params), encoding="utf-8")
    save_images(tmp_path / "train.npz", np.random.default_rng(0).integers(0, 256, (100, 1, 8, 8), np.uint8))
    words = [sys.executable, "-c", script, repr(compute)]
    environment = {**os.environ, "PYTHONPATH": str(smoke.ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "\n"), done.stderr
    assert (tmp_path / "gaussian.npz").is_file()
