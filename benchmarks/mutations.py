"""Put one fault at a time into a copy of the code, and see that the fast tests notice it.

    python benchmarks/mutations.py [WORD ...]

Without words all faults below, else those whose names hold one of the words. Each fault is an edit of one file and
names the tests that must fail with it, every one of them. Prints a table; ends with status 1 where a fault is not
noticed, or where the code has changed so that its edit no longer applies.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LEFT_OUT = {"data", "results", "logs"}  # and what begins with a dot

REPLAY = "tests/training/test_replay.py"
BUFFER, ENERGY, GAUSSIAN, LOSS, ITERATION, SCHEDULE, SGLD = (
    f"tests/method/test_{name}.py" for name in ("buffer", "energy", "gaussian", "loss", "iteration", "schedule", "sgld")
)
ORACLE, IMAGES, PAPER = "tests/test_oracle.py", "tests/data/test_images.py", "tests/settings/test_paper_values.py"
EVALUATION, METRICS, SELECTION = (f"tests/measure/test_{name}.py" for name in ("evaluation", "metrics", "selection"))
PAIRED = "tests/training/test_paired.py::test_iterations_are_those_of_separate_passes"
STAGES, LOOP = "tests/stages/test_stages.py", "tests/training/test_loop.py"


@dataclass(frozen=True)
class Fault:
    """An edit: `old` occurs once in `file`, and is replaced. tests: files, or parts of files, that must see it."""

    name: str
    file: str
    old: str
    new: str
    tests: tuple[str, ...]


FAULTS = (
    # one iteration
    Fault(
        "the buffer is never written back",
        "mebm/method/iteration.py",
        "    inputs.buffer.write(choices.chains, choices.last, x_neg)\n",
        "",
        (REPLAY, ITERATION),
    ),
    Fault(
        "no chain restarts",
        "mebm/method/iteration.py",
        "train.reinit_freq, inputs.generators",
        "0.0, inputs.generators",
        (REPLAY,),
    ),
    Fault(
        "x+ is augmented",
        "mebm/method/iteration.py",
        "        x_pos = bytes_to_unit(inputs.data.images[choices.plain])\n",
        "        x_pos = bytes_to_unit(inputs.data.images[choices.plain].roll(1, -1))\n",
        (REPLAY,),
    ),
    Fault(
        "labelled images are not augmented",
        "mebm/method/iteration.py",
        "        if choices.rows is not None:\n",
        "        if False:\n",
        (REPLAY,),
    ),
    Fault(
        "grad_bound is not passed on",
        "mebm/method/iteration.py",
        "train.noise_std, train.grad_bound, drawn.noise)",
        "train.noise_std, None, drawn.noise)",
        (REPLAY,),
    ),
    Fault(
        "SGLD by running averages",
        "mebm/method/iteration.py",
        "        return Samples(*sgld(model.energy, drawn.x_init, *options))\n",
        "        made = Samples(*sgld(model.eval().energy, drawn.x_init, *options))\n"
        "        model.train()\n"
        "        return made\n",
        (REPLAY, ORACLE),
    ),
    Fault(
        "SGLD passes before x+",
        "mebm/method/iteration.py",
        "    with autocast(train, model):\n        energy_pos = model.energy(x_pos)\n    made = samples()\n",
        "    made = samples()\n    with autocast(train, model):\n        energy_pos = model.energy(x_pos)\n",
        (REPLAY, ITERATION, ORACLE),
    ),
    Fault(
        "px_weight is left out",
        "mebm/method/iteration.py",
        'loss = train.px_weight * found["loss_px"]',
        'loss = found["loss_px"]',
        (REPLAY,),
    ),
    Fault(
        "pyx_weight only switches",
        "mebm/method/iteration.py",
        'train.pyx_weight * found["cross_entropy"]',
        'found["cross_entropy"]',
        (REPLAY,),
    ),
    Fault(
        "the class head decays in M-EBM",
        "mebm/method/iteration.py",
        "    norm = gradient_norm(model)\n    optimiser.step()\n",
        "    norm = gradient_norm(model)\n"
        "    for p in model.parameters():\n"
        "        p.grad = torch.zeros_like(p) if p.grad is None else p.grad\n"
        "    optimiser.step()\n",
        (REPLAY, f"{LOOP}::test_the_class_head_of_an_unconditional_run_stays_as_initialised"),
    ),
    # a pass of two batches
    Fault(
        "the halves of a pair share their statistics",
        "mebm/training/paired.py",
        "        layer.halves = True\n",
        "        layer.halves = False\n",
        (PAIRED,),
    ),
    Fault(
        "running averages forget x+ of a pair",
        "mebm/training/paired.py",
        "    torch._foreach_add_(averages, ahead)\n",
        "",
        (PAIRED,),
    ),
    Fault(
        "running averages keep all of x+ of a pair",
        "mebm/training/paired.py",
        "    torch._foreach_mul_(ahead, (1 - layers[0].momentum) ** later)\n",
        "",
        (PAIRED,),
    ),
    Fault(
        "biases before BatchNorm do not decay in a pair",
        "mebm/training/paired.py",
        "        return _ZeroGradient.apply(self._conv_forward(x, self.weight, self.bias.detach()), self.bias)\n",
        "        return self._conv_forward(x, self.weight, self.bias.detach())\n",
        (PAIRED,),
    ),
    Fault(
        "filters are flipped and not transposed",
        "mebm/training/paired.py",
        ".flip(2, 3).transpose(0, 1)",
        ".flip(2, 3)",
        (PAIRED,),
    ),
    # SGLD
    Fault(
        "noise before the bound on gradients",
        "mebm/method/sgld.py",
        "        step = gradient if grad_bound is None else gradient.clamp(-grad_bound, grad_bound)\n"
        "        x = x.detach() - step_size * step\n"
        "        if noise_std:\n"
        "            x += noise_std * noise\n",
        "        step, x = gradient, x.detach()\n"
        "        if noise_std:\n"
        "            step = step - noise_std / step_size * noise\n"
        "        x = x - step_size * (step if grad_bound is None else step.clamp(-grad_bound, grad_bound))\n",
        (REPLAY,),
    ),
    Fault(
        "noise after the clip of pixels",
        "mebm/method/sgld.py",
        "        x = x.detach() - step_size * step\n",
        "        x = (x.detach() - step_size * step).clamp_(-1, 1)\n",
        (REPLAY,),
    ),
    Fault("noise is left out", "mebm/method/sgld.py", "x += noise_std * noise", "pass", (REPLAY, SGLD)),
    Fault("a step goes uphill", "mebm/method/sgld.py", "- step_size * step\n", "+ step_size * step\n", (REPLAY, SGLD)),
    Fault("one step too many", "mebm/method/sgld.py", "in range(n_steps)", "in range(n_steps + 1)", (REPLAY, SGLD)),
    Fault("one step too few", "mebm/method/sgld.py", "in range(n_steps)", "in range(n_steps - 1)", (REPLAY, ORACLE)),
    Fault("pixels are not clipped", "mebm/method/sgld.py", "x.clamp_(-1, 1), gradient", "x, gradient", (REPLAY, SGLD)),
    # the replay buffer
    Fault(
        "of a chain picked twice the first result stays",
        "mebm/method/buffer.py",
        "for position, number in enumerate(numbers)}",
        "for position, number in reversed(list(enumerate(numbers)))}",
        (REPLAY, BUFFER, ITERATION),
    ),
    Fault(
        "restarts with the chance 1 - reinit_freq",
        "mebm/method/buffer.py",
        "generator=generator) < reinit_freq\n",
        "generator=generator) > reinit_freq\n",
        (REPLAY, BUFFER),
    ),
    # the objective
    Fault(
        "the mean of squares on samples too",
        "mebm/method/loss.py",
        "energy_neg.mean().square()",
        "energy_neg.square().mean()",
        (REPLAY, LOSS, ORACLE),
    ),
    Fault(
        "the square of the mean on data too",
        "mebm/method/loss.py",
        "energy_pos.square().mean()",
        "energy_pos.mean().square()",
        (REPLAY, LOSS, ORACLE),
    ),
    Fault(
        "data is raised and samples lowered",
        "mebm/method/loss.py",
        "energy_pos.mean() - energy_neg.mean()\n",
        "energy_neg.mean() - energy_pos.mean()\n",
        (REPLAY, LOSS, ENERGY),
    ),
    # the network
    Fault(
        "energies with the release's sign",
        "mebm/method/energy.py",
        "return -self.energy_head(features)",
        "return self.energy_head(features)",
        (REPLAY, ORACLE),
    ),
    Fault(
        "the largest logit for log-sum-exp",
        "mebm/method/energy.py",
        "self.class_head(features).logsumexp(dim=1)",
        "self.class_head(features).amax(dim=1)",
        (REPLAY, ENERGY, ORACLE),
    ),
    Fault(
        "BatchNorm's momentum in the other sense",
        "mebm/method/wideresnet.py",
        "BATCH_NORM_MOMENTUM = 0.9",
        "BATCH_NORM_MOMENTUM = 0.1",
        (REPLAY, ENERGY, ORACLE),
    ),
    Fault(
        "PyTorch's slope of LeakyReLU",
        "mebm/method/wideresnet.py",
        "LEAK = 0.2",
        "LEAK = 0.01",
        (REPLAY, ORACLE),
    ),
    Fault(
        "the stride in a block's first convolution",
        "mebm/method/wideresnet.py",
        "channels, 3, padding=1)\n        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()\n"
        "        self.bn2 = NORMS[norm](channels)\n"
        "        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1)\n",
        "channels, 3, stride=stride, padding=1)\n"
        "        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()\n"
        "        self.bn2 = NORMS[norm](channels)\n"
        "        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)\n",
        (REPLAY, ORACLE),
    ),
    # the optimiser and its rate
    Fault(
        "weight decay is left out",
        "mebm/method/schedule.py",
        '"weight_decay": train.weight_decay',
        '"weight_decay": 0.0',
        (REPLAY, SCHEDULE, ORACLE),
    ),
    Fault(
        "momentum is left out",
        "mebm/method/schedule.py",
        "rate, train.momentum, **options",
        "rate, **options",
        (REPLAY, SCHEDULE, ORACLE),
    ),
    Fault(
        "a decay comes an epoch late",
        "mebm/method/schedule.py",
        "if epoch >= start:",
        "if epoch > start:",
        (REPLAY, SCHEDULE, ORACLE),
    ),
    Fault(
        "a decay within the warm-up is lost",
        "mebm/method/schedule.py",
        "return rate * iteration / warmup_iters",
        "return lr * iteration / warmup_iters",
        (REPLAY, SCHEDULE),
    ),
    Fault(
        "warm-up is one iteration ahead",
        "mebm/method/schedule.py",
        "return rate * iteration / warmup_iters",
        "return rate * (iteration + 1) / warmup_iters",
        (REPLAY, SCHEDULE, ORACLE),
    ),
    Fault("the rate is never set", "mebm/training/loop.py", "    run.set_rate(rate)\n", "", (REPLAY,)),
    Fault(
        "an epoch is a pass of x+",
        "mebm/method/schedule.py",
        "train.label_batch_size if labelled else train.batch_size",
        "train.batch_size",
        (REPLAY, SCHEDULE),
    ),
    # data
    Fault(
        "both streams in the same order",
        "mebm/training/run.py",
        'generator_for("labelled batches", train.seed)',
        'generator_for("plain batches", train.seed)',
        (REPLAY,),
    ),
    Fault(
        "every pass in the same order",
        "mebm/data/batches.py",
        "torch.randperm(self.n, generator=self.generator)",
        "torch.randperm(self.n, generator=torch.Generator().manual_seed(0))",
        (REPLAY, IMAGES),
    ),
    Fault(
        "zeros around the image to crop from",
        "mebm/data/batches.py",
        'mode="reflect"',
        'mode="constant"',
        (REPLAY, IMAGES),
    ),
    Fault(
        "no crop at the last row and column",
        "mebm/data/batches.py",
        "torch.randint(0, 2 * pad + 1,",
        "torch.randint(0, 2 * pad,",
        (REPLAY, IMAGES),
    ),
    Fault("nothing is flipped", "mebm/data/batches.py", "< 0.5) & flip", "< 0.0) & flip", (REPLAY, IMAGES)),
    # the initial distribution
    Fault(
        "a covariance divided by N - 1",
        "mebm/method/gaussian.py",
        "cov = (products.double() / len(images)).addr_(mean, mean, alpha=-1)",
        "cov = (products.double() / len(images)).addr_(mean, mean, alpha=-1) * (len(images) / (len(images) - 1))",
        (REPLAY, GAUSSIAN, ORACLE),
    ),
    Fault(
        "the ridge is left out",
        "mebm/method/gaussian.py",
        "cov + ridge * torch.eye(dimension, dtype=torch.float64)",
        "cov + 1e-9 * torch.eye(dimension, dtype=torch.float64)",
        (REPLAY, ORACLE),
    ),
    Fault(
        "the factor's transpose",
        "mebm/method/gaussian.py",
        "z, self.factor.T)",
        "z, self.factor)",
        (REPLAY, GAUSSIAN, ORACLE),
    ),
    Fault(
        "draws are not clipped",
        "mebm/method/gaussian.py",
        "self.factor.T).clamp_(-1, 1)",
        "self.factor.T)",
        (REPLAY, GAUSSIAN, ORACLE),
    ),
    Fault("blocks of 4 from 64 pixels on", "mebm/method/gaussian.py", "(99, 2)", "(99, 4)", (REPLAY, GAUSSIAN, ORACLE)),
    # what is scored
    Fault(
        "`full` says that it truncates",
        "mebm/measure/selection.py",
        '"rounding": "nearest"',
        '"rounding": "truncate"',
        (SELECTION, f"{STAGES}::test_protocols"),
    ),
    Fault(
        "`full` is truncated",
        "stages/sample.py",
        'unit_to_bytes(chains[kept], record["rounding"])',
        'unit_to_bytes(chains[kept], "truncate")',
        (f"{STAGES}::test_protocols",),
    ),
    Fault(
        "bytes are truncated everywhere",
        "mebm/data/images.py",
        'scaled.round() if rounding == "nearest" else scaled.trunc()',
        "scaled.trunc()",
        (IMAGES,),
    ),
    Fault(
        "the least probable images are kept",
        "mebm/measure/selection.py",
        "argsort(descending=True,",
        "argsort(descending=False,",
        (SELECTION, ORACLE),
    ),
    Fault(
        "a share is rounded up",
        "mebm/measure/selection.py",
        "math.floor(len(members) * keep_ratio)",
        "math.ceil(len(members) * keep_ratio)",
        (SELECTION, ORACLE),
    ),
    Fault(
        "features' covariance divided by N",
        "mebm/measure/features.py",
        "covariance(ddof=1)",
        "covariance(ddof=0)",
        (METRICS,),
    ),
    Fault(
        "the distance without its root",
        "mebm/measure/metrics.py",
        "- 2 * trace_root",
        "- trace_root",
        (METRICS, ORACLE),
    ),
    Fault(
        "the score without its permutation",
        "mebm/measure/metrics.py",
        "if permutation_seed is not None:",
        "if False:",
        (METRICS, ORACLE),
    ),
    Fault(
        "a reference of half the training images",
        "stages/reference.py",
        "extract(network, data.images, settings",
        "extract(network, data.images[::2], settings",
        (f"{STAGES}::test_the_reference_is_that_of_all_training_images",),
    ),
    Fault(
        "images are scored by batch statistics",
        "mebm/measure/evaluation.py",
        'images: Tensor, batch_size: int, bn_stats: str = "running") -> Scores:',
        'images: Tensor, batch_size: int, bn_stats: str = "batch") -> Scores:',
        (EVALUATION,),
    ),
    # params.yaml
    Fault("reinit_freq: 0.5", "params.yaml", "reinit_freq: 0.05 ", "reinit_freq: 0.5 ", (PAPER,)),
    Fault("weight_decay: 5e-3", "params.yaml", "weight_decay: 5.0e-4 ", "weight_decay: 5.0e-3 ", (PAPER,)),
    Fault("lr 0.1 for CelebA-HQ", "params.yaml", "lr: 0.02, decay_epochs: [80", "decay_epochs: [80", (PAPER,)),
    Fault(
        "crops of ImageNet 32x32",
        "params.yaml",
        "dataset: imagenet32, train: {augment_pad: 0}",
        "dataset: imagenet32",
        (PAPER,),
    ),
    Fault(
        "noise at K = 2",
        "params.yaml",
        "&k2 {n_steps: 2, l2_coeff: 0.1, noise_std: 0.0}",
        "&k2 {n_steps: 2, l2_coeff: 0.1}",
        (PAPER,),
    ),
)


def edited(text: str, fault: Fault) -> str | None:
    """The file's text with the fault in it; None where the edit does not apply."""
    return text.replace(fault.old, fault.new) if text.count(fault.old) == 1 else None


def copy_of(root: Path, folder: Path) -> Path:
    """What the tests need of the project, without results."""
    folder.mkdir()
    for path in root.iterdir():
        if path.is_dir() and path.name not in LEFT_OUT and not path.name.startswith("."):
            shutil.copytree(path, folder / path.name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.is_file():
            shutil.copy(path, folder / path.name)
    return folder


@contextmanager
def faulty(copy: Path, fault: Fault) -> Iterator[bool]:
    """The fault in the copy; yields whether its edit applies."""
    path = copy / fault.file
    before = path.read_text(encoding="utf-8")
    after = edited(before, fault)
    try:
        if after is not None:
            path.write_text(after, encoding="utf-8")
        yield after is not None
    finally:
        path.write_text(before, encoding="utf-8")


def failing(copy: Path, tests: tuple[str, ...]) -> list[str]:
    """Tests that fail in the copy, each as file::name. Raises RuntimeError where pytest could not run them."""
    command = [sys.executable, "-m", "pytest", "-q", "--tb=no", "-rfE", "-p", "no:cacheprovider"]
    command += ["-m", "not slow and not gpu", *tests]
    environment = {**os.environ, "PYTHONPATH": str(copy), "OMP_NUM_THREADS": "1"}
    # No .pyc: the one of an edit of the same length within the same second would be taken for its source.
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1):
        raise RuntimeError(f"pytest ended with {done.returncode}: {done.stdout[-500:]}{done.stderr[-500:]}")
    return re.findall(r"^(?:FAILED|ERROR) ([\w/.]+::\w+)", done.stdout, re.MULTILINE)


def verdict(copy: Path, fault: Fault) -> tuple[bool, str]:
    """Whether every test that is named sees the fault, and how many tests see it in which file."""
    with faulty(copy, fault) as applies:
        if not applies:
            return False, f"NOT TRIED: its text does not occur once in {fault.file}"
        try:
            found = failing(copy, fault.tests)
        except RuntimeError as error:
            return False, f"CANNOT BE TRIED: {' '.join(str(error).split())[:200]}"
    blind = [test for test in fault.tests if not any(name.startswith(test) for name in found)]
    if blind:
        return False, f"NOT SEEN by {', '.join(blind)}"
    seen = Counter(Path(name.split("::")[0]).stem for name in found)
    return True, ", ".join(f"{file} ({count})" for file, count in seen.items())


def main(argv: list[str] | None = None, faults: tuple[Fault, ...] = FAULTS, root: Path = ROOT) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("words", nargs="*", help="part of a fault's name; all of them without")
    words = parser.parse_args(argv).words
    chosen = [fault for fault in faults if not words or any(word in fault.name for word in words)]
    if not chosen:
        parser.error("no fault has such a name")
    missed = 0
    with tempfile.TemporaryDirectory() as name:
        copy = copy_of(root, Path(name) / "project")
        if broken := failing(copy, tuple(sorted({test for fault in chosen for test in fault.tests}))):
            print(f"without any fault these fail: {', '.join(broken)}", file=sys.stderr)
            return 1
        print("| fault | in | seen by (tests) | seconds |\n| --- | --- | --- | --- |")
        for fault in chosen:
            start = time.monotonic()
            seen, said = verdict(copy, fault)
            missed += not seen
            print(f"| {fault.name} | `{fault.file}` | {said} | {time.monotonic() - start:.0f} |", flush=True)
    print(f"\n{len(chosen)} faults, {len(chosen) - missed} seen, {missed} not")
    return int(missed > 0)


if __name__ == "__main__":
    sys.exit(main())
