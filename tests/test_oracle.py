"""The library against values of the published release, file by file, in float64 and within the limits of its README.

`pytest tests/test_oracle.py --oracle DIR` checks another folder of the same format. It may hold only some of the
files, with other weights, sizes, seeds and numbers of steps; what is missing is skipped by name.
"""

import csv
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mebm.data.blocks import block_mean, block_repeat
from mebm.data.images import bytes_to_unit, unit_to_bytes
from mebm.measure.metrics import frechet_distance, inception_style_score
from mebm.measure.selection import select_by_class
from mebm.method.energy import EnergyModel, build_model
from mebm.method.gaussian import GaussianInit, block_size, fit_gaussian
from mebm.method.iteration import Algorithm, Drawn, objective_of
from mebm.method.schedule import lr_at, make_optimiser
from mebm.method.sgld import sgld
from mebm.seeds import generator_for
from mebm.settings.schema import Train
from mebm.training.release import from_release_state

KNOWN = ("*_io.pt", "sgld.pt", "loss.pt", "gaussian.pt", "select.pt", "lr_schedule.csv", "state_dict_keys.csv")
KNOWN += ("frechet.npz",)
OWN = Path(__file__).parent / "oracle"


def load(folder: Path, name: str) -> Any:
    """A file of the folder; skips the test where it is not there."""
    path = folder / name
    if not path.is_file():
        pytest.skip(f"{name} is not in {folder}")
    return torch.load(path, weights_only=True)


def double(value: Tensor) -> Tensor:
    return value.to(torch.float64)


def model_from(path: Path, image_size: int, head: str) -> EnergyModel:
    """The release's checkpoint as a model in float64 and training mode; sizes are read off the parameters."""
    state = from_release_state(torch.load(path, weights_only=True)["model_state_dict"])
    n_blocks = len({key.split(".")[2] for key in state if key.startswith("backbone.layer1.")})
    model = build_model(
        (state["backbone.conv1.weight"].shape[1], image_size, image_size),
        len(state["class_head.weight"]),
        depth=6 * n_blocks + 4,
        width=state["backbone.layer1.0.conv1.weight"].shape[0] // 16,
        head=head,
    )
    model.load_state_dict(state)
    return model.double().train()


def running_stats(model: EnergyModel) -> dict[str, Tensor]:
    kinds = ("running_mean", "running_var", "num_batches_tracked")
    return {key: value for key, value in model.state_dict().items() if key.endswith(kinds)}


def assert_close(ours: Tensor, theirs: Tensor, limit: float, what: str) -> None:
    """Largest absolute difference within the limit; shapes must agree."""
    assert ours.shape == theirs.shape, what
    assert float((double(ours.detach()) - double(theirs)).abs().max()) <= limit, what


def assert_stats(model: EnergyModel, theirs: dict[str, Tensor], limit: float = 1e-5) -> None:
    ours, theirs = running_stats(model), from_release_state(theirs)
    assert set(ours) == set(theirs)
    for key, value in theirs.items():
        assert_close(ours[key], value, limit, key)


def relative(ours: float | Tensor, theirs: float | Tensor) -> float:
    ours, theirs = float(torch.as_tensor(ours).detach()), float(theirs)
    return abs(ours - theirs) / max(abs(theirs), 1e-12)


@pytest.fixture(scope="module")
def folder(oracle_dir: Path) -> Path:
    assert oracle_dir.is_dir(), f"--oracle: {oracle_dir} is no folder"
    assert any(any(oracle_dir.glob(pattern)) for pattern in KNOWN), f"--oracle: {oracle_dir} holds none of {KNOWN}"
    return oracle_dir


@pytest.fixture(scope="module")
def energy_checkpoint(folder: Path) -> Path:
    """The energy-head checkpoint that sgld.pt and loss.pt start from."""
    found = sorted(folder.glob("*_uncond.pt"))
    if not found:
        pytest.skip(f"no *_uncond.pt in {folder}")
    return found[0]


@pytest.fixture(scope="module")
def models(folder: Path) -> list[tuple[Path, dict, str]]:
    """(checkpoint, inputs and outputs, head) of every model of the folder; skips the test where there is none."""
    found = []
    for path in sorted(folder.glob("*_io.pt")):
        checkpoint = path.with_name(path.name.replace("_io.pt", ".pt"))
        if checkpoint.is_file():
            io = torch.load(path, weights_only=True)
            found.append((checkpoint, io, "logsumexp" if "energy_given_y_train" in io else "energy"))
    if not found:
        pytest.skip(f"no model with its _io.pt in {folder}")
    return found


def test_the_folder_of_the_repository_is_whole():
    """So that nothing here is skipped unless another folder is given."""
    assert not [pattern for pattern in KNOWN if not any(OWN.glob(pattern))]
    assert {path.name for path in OWN.glob("*_io.pt")} == {"wrn10_1_uncond_io.pt", "wrn10_1_lse_io.pt"}
    assert all(path.with_name(path.name.replace("_io", "")).is_file() for path in OWN.glob("*_io.pt"))


def test_energies_features_and_logits(models):
    for checkpoint, io, head in models:
        x = double(io["x"])
        for mode in ("train", "eval"):
            model = model_from(checkpoint, x.shape[-1], head).train(mode == "train")
            features = model.features(x)
            assert_close(-model.energy_of(features), io[f"energy_{mode}"], 1e-5, f"{checkpoint.name} energy {mode}")
            assert_close(features, io[f"features_{mode}"], 1e-5, f"{checkpoint.name} features {mode}")
            logits = model.class_head(features)
            assert_close(logits, io[f"logits_{mode}"], 1e-5, f"{checkpoint.name} logits {mode}")
            if mode == "train":
                assert_stats(model, io["running_stats_after_one_train_pass"])
            if head == "logsumexp":
                of_y = logits.gather(1, io["y"][:, None])
                assert_close(of_y, io[f"energy_given_y_{mode}"], 1e-5, f"{checkpoint.name} energy given y {mode}")


def test_public_methods_agree_with_the_features(models):
    for checkpoint, io, head in models:
        model = model_from(checkpoint, io["x"].shape[-1], head).eval()
        x = double(io["x"])
        assert_close(-model.energy(x), io["energy_eval"], 1e-5, checkpoint.name)
        assert_close(model.logits(x), io["logits_eval"], 1e-5, checkpoint.name)


def test_gradient_with_respect_to_images(models):
    for checkpoint, io, head in models:
        model = model_from(checkpoint, io["x"].shape[-1], head)
        x = double(io["x"]).requires_grad_(True)
        with model.frozen_weights():
            (gradient,) = torch.autograd.grad(model.energy(x).sum(), x)
        difference = (-gradient - double(io["grad_x_of_sum_energy_train"])).abs()
        # Kinks of LeakyReLU within float32's rounding of zero flip single elements, so: nearly all, and the mean.
        assert float((difference > 2e-5).double().mean()) <= 0.05, checkpoint.name
        assert float(difference.mean()) <= 1e-4, checkpoint.name


def test_sgld(folder, energy_checkpoint):
    values = load(folder, "sgld.pt")
    runs = [(key, match) for key in values if (match := re.fullmatch(r"(steep_)?(noclip_)?final_(\d+)", key))]
    assert runs, "sgld.pt holds no final_K"
    for key, match in runs:
        steep, noclip, n_steps = bool(match[1]), bool(match[2]), int(match[3])
        start = double(values["steep_start" if steep else "start"])
        model = model_from(energy_checkpoint, start.shape[-1], "energy")
        if steep:
            model.energy_head.weight.data *= values["steep_factor"]
        with model.frozen_weights():
            x, _ = sgld(model.energy, start, n_steps, 1.0, 0.0, None if noclip else 1.0)
        assert_close(x, values[key], 1e-4 if steep else 2e-5, key)
        if f"running_stats_{n_steps}" in values and not steep:
            assert_stats(model, values[f"running_stats_{n_steps}"])


def assert_checksums(model: EnergyModel, theirs: dict[str, tuple], limit: float, what: str) -> None:
    """Sums of squares of all parameters, relatively."""
    ours, theirs = dict(model.named_parameters()), from_release_state(theirs)
    assert set(ours) == set(theirs), what
    for name, (_, square) in theirs.items():
        assert relative(ours[name].square().sum(), square) <= limit, (what, name)


def test_loss_gradients_and_steps(folder, energy_checkpoint):
    values = load(folder, "loss.pt")
    variants = [key for key in values if key.startswith("l2_")]
    assert variants, "loss.pt holds no variant l2_*"
    for key in variants:
        check_variant(values, values[key], key, energy_checkpoint)


def check_variant(values: dict, variant: dict, key: str, checkpoint: Path) -> None:
    x_pos, start, x_lab = (double(values[name]) for name in ("x_pos", "start", "x_lab"))
    model = model_from(checkpoint, x_pos.shape[-1], "energy")
    assert_checksums(model, values["param_checksum_before"], 1e-6, key)
    settings = Train.model_construct(
        **{key: values[key] for key in ("lr", "momentum", "weight_decay", "n_steps")},
        optimiser="sgd",
        precision="float32",
        px_weight=float(values["px"]),
        pyx_weight=float(variant["pyx"]),
        l2_coeff=float(variant["l2_coeff"]),
        step_size=values["sgld_lr"],
        noise_std=values["sgld_std"],
        grad_bound=1.0,
    )
    optimiser = make_optimiser(model, settings)
    for step in (1, 2):
        drawn = Drawn(x_pos, start, labelled=(x_lab, values["y_lab"]))
        objective, samples = objective_of(Algorithm(), settings, model, drawn)
        terms, x_neg = objective(), samples().x_neg
        optimiser.zero_grad(set_to_none=True)
        terms["loss"].backward()
        if step == 1:
            check_terms(terms, x_neg, values, variant, key)
            check_gradients(model, variant, key)
            assert_stats(model, variant["running_stats_after_step1"])
        else:
            for ours, theirs in zip((x_neg.sum(), x_neg.square().sum()), variant["x_neg_sum_2"], strict=True):
                assert abs(float(ours) - float(theirs)) <= 1e-3 * max(abs(float(theirs)), x_neg.numel() ** 0.5), key
        optimiser.step()
        limit = 2e-5 if step == 1 else 1e-3
        assert_checksums(model, variant[f"param_checksum_after_step{step}"], limit, f"{key}, step {step}")


def check_terms(terms: dict, x_neg: Tensor, values: dict, variant: dict, key: str) -> None:
    assert_close(x_neg, values["x_neg"], 2e-5, key)
    assert_close(-terms["energy_pos"], variant["f_pos"], 1e-5, key)
    assert_close(-terms["energy_neg"], variant["f_neg"], 1e-5, key)
    ours = {
        "total": terms["loss"],
        "l_px": terms["loss_px"],
        "f_pos_mean": -terms["energy_pos"].mean(),
        "f_neg_mean": -terms["energy_neg"].mean(),
        "f_pos_sq_mean": terms["energy_pos"].square().mean(),
    }
    if variant["pyx"]:
        ours["cross_entropy"] = terms["cross_entropy"]
    for name, value in ours.items():
        assert relative(value, variant[name]) <= 1e-5, (key, name)


def check_gradients(model: EnergyModel, variant: dict, key: str) -> None:
    parameters = dict(model.named_parameters())
    norms = from_release_state(variant["grad_norm"])
    largest = max(float(norm) for norm in norms.values())
    for name, norm in norms.items():
        ours = float(parameters[name].grad.norm())
        if float(norm) > 1e-3 * largest:
            assert relative(ours, norm) <= 2e-5, (key, name)
        else:  # a bias in front of a BatchNorm has gradient 0 in exact arithmetic
            assert abs(ours - float(norm)) <= 2e-5 * largest, (key, name)
    without = {name for name, p in parameters.items() if p.grad is None}
    assert without == set(from_release_state(dict.fromkeys(variant["no_grad_for"]))), key
    for name, gradient in from_release_state(variant.get("grads", {})).items():
        assert_close(parameters[name].grad, gradient, 2e-5 * largest, f"{key} {name}")


def test_gaussian_statistics(folder):
    values = load(folder, "gaussian.pt")
    images = values["images_u8"]
    mean, cov = fit_gaussian(images, batch_size=17)
    assert_close(mean, values["cifar_mean"], 1e-5, "mean")
    assert_close(cov.diagonal(), values["cifar_cov_diag"], 1e-5, "diagonal")
    assert_close(cov[values["cifar_cov_row_index"]], values["cifar_cov_rows"], 1e-5, "rows")
    probe = double(values["cifar_probe"])
    theirs = double(values["cifar_cov_times_probe"])
    assert_close(cov @ probe, theirs, 1e-5 * float(theirs.abs().max()), "cov @ probe")
    assert relative(cov.trace(), values["cifar_cov_trace"]) <= 1e-5
    assert relative(cov.norm(), values["cifar_cov_frobenius"]) <= 1e-5
    assert abs(float(cov.sum()) - float(values["cifar_cov_sum"])) <= 1e-5 * float(cov.abs().sum())
    init = GaussianInit.from_moments(mean, cov, tuple(images.shape[1:]), 1e-4)
    assert_close(init.factor.diagonal(), values["chol_diag"], 2e-3, "Cholesky diagonal")
    assert_close(init.from_noise(double(values["draw_z"])), values["draw"], 2e-3, "draw")


def test_block_means(folder):
    values = load(folder, "gaussian.pt")
    (size,) = {int(match[1]) for key in values if (match := re.fullmatch(r"images(\d+)_u8", key))}
    images = values[f"images{size}_u8"]
    block = block_size(size)
    down = block_mean(bytes_to_unit(images, torch.float64), block)
    assert_close(down, values[f"down{size}"], 1e-5, "block means")
    up = block_repeat(down, block)
    assert_close(up[0, 0], values[f"up{size}_image0_channel0"], 1e-5, "repeated block means")
    assert relative(up.square().sum(), values[f"up{size}_sumsq"]) <= 1e-5
    assert abs(float(up.sum()) - float(values[f"up{size}_sum"])) <= 1e-5 * float(up.abs().sum())
    mean, cov = fit_gaussian(images, batch_size=5)
    assert_close(mean, values["celeba_mean"], 1e-5, "mean of block means")
    assert_close(cov.diagonal(), values["celeba_cov_diag"], 1e-5, "diagonal of block means")
    assert relative(cov.trace(), values["celeba_cov_trace"]) <= 1e-5
    assert relative(cov.norm(), values["celeba_cov_frobenius"]) <= 1e-5


def test_block_sizes(folder):
    sizes = load(folder, "gaussian.pt")["block_size"]
    assert sizes
    for size, block in sizes.items():
        assert block_size(int(size)) == block, size


def test_class_selection(folder):
    values = load(folder, "select.pt")
    kept = [key for key in values if key.startswith("keep_")]
    assert kept, "select.pt holds no keep_*"
    assert torch.equal(values["probs"].argmax(1), values["predicted"])
    counts = torch.bincount(values["predicted"], minlength=values["probs"].shape[1])
    assert counts.tolist() == torch.as_tensor(values["class_counts"]).tolist()
    for key in kept:
        ours = select_by_class(values["probs"], float(key.removeprefix("keep_")))
        assert ours.tolist() == torch.as_tensor(values[key]).tolist(), key


def test_truncated_pixels(folder):
    values = load(folder, "select.pt")
    assert torch.equal(unit_to_bytes(values["pixel_in"], "truncate"), values["pixel_u8"])


def test_learning_rates(folder):
    path = folder / "lr_schedule.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {folder}")
    schedule = {"lr": 0.1, "warmup_iters": 1000, "decay_epochs": [60, 120, 180], "decay_factor": 0.2}
    rows = list(csv.DictReader(path.open()))
    assert rows
    for row in rows:
        assert lr_at(int(row["iteration"]), int(row["epoch"]), **schedule) == float(row["lr"]), row


def test_parameter_names_and_shapes(folder):
    path = folder / "state_dict_keys.csv"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {folder}")
    listed: dict[str, dict[str, tuple[int, ...]]] = {}
    for row in csv.DictReader(path.open()):
        shape = tuple(int(n) for n in row["shape"].split("x") if n)
        listed.setdefault(row["model"], {})[row["name"]] = shape
    assert listed
    for name, theirs in listed.items():
        depth, width, size = map(int, re.fullmatch(r"wrn(\d+)_(\d+)_(\d+)px", name).groups())
        theirs = from_release_state(theirs)
        channels, n_classes = theirs["backbone.conv1.weight"][1], theirs["class_head.weight"][0]
        with torch.device("meta"):
            model = build_model((channels, size, size), n_classes, depth=depth, width=width)
        ours = {key: tuple(value.shape) for key, value in model.state_dict().items()}
        assert ours == theirs, name


def archive(folder: Path) -> dict[str, np.ndarray]:
    path = folder / "frechet.npz"
    if not path.is_file():
        pytest.skip(f"{path.name} is not in {folder}")
    return dict(np.load(path))


def test_frechet_distances(folder):
    values = archive(folder)
    assert len(values["names"])
    for name in map(str, values["names"]):
        arrays = [values[f"{name}/{key}"] for key in ("mu1", "sigma1", "mu2", "sigma2")]
        ours = frechet_distance(*arrays)
        assert abs(ours - float(values[f"{name}/frechet"])) <= float(values[f"{name}/tol_abs"]), name
        assert ours >= 0


def test_scores(folder):
    values = archive(folder)
    keys = [key for key in values if re.search(r"/(no)?shuffle(\d*)_splits\d+$", key)]
    assert keys
    for key in keys:
        name, seed, splits = re.fullmatch(r"(\w+)/(?:no)?shuffle(\d*)_splits(\d+)", key).groups()
        ours = inception_style_score(values[f"{name}/logits"], int(splits), int(seed) if seed else None)
        assert np.abs(np.array(ours) - values[key]).max() <= 1e-9, key
    if "is/one_split_high_precision" in values:
        exact = float(values["is/one_split_high_precision"])
        assert inception_style_score(values["is/logits"], 1)[0] == pytest.approx(exact, abs=1e-9)


def test_generators_do_not_depend_on_each_other():
    draws = {purpose: torch.rand(3, generator=generator_for(purpose, 0)) for purpose in ("chains", "noise")}
    assert not torch.equal(draws["chains"], draws["noise"])
    assert torch.equal(draws["chains"], torch.rand(3, generator=generator_for("chains", 0)))
