"""Telling images apart: numbers in closed form and by brute force, images brought to a shape, the stage around them."""

import copy

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from scipy.special import softmax
from small_run import SmallRun, classifier, linear_model
from torch import nn
from torchvision.transforms.v2.functional import resize

from mebm.analyses import ood
from mebm.data.archives import save_images
from mebm.data.images import bytes_to_unit
from mebm.errors import ParamsError
from mebm.measure.evaluation import gradient_norms
from mebm.method.energy import EnergyModel
from mebm.settings.schema import MADE_SETS
from mebm.settings.suite import load_params
from stages import ood as stage


def by_set(record: dict) -> dict[str, dict]:
    """What the record says of each other set, with its scores."""
    return {
        name: about | {"scores": {score: record[score][name] for score in ood.SCORES if name in record[score]}}
        for name, about in record["others"].items()
    }


def bytes_of(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("inside", "outside", "auroc", "precision", "fpr"),
    [
        ([3, 4, 5], [0, 1, 2, 2], 1.0, 1.0, 0.0),
        ([0, 1], [2, 3], 0.0, (1 / 3 + 2 / 4) / 2, 1.0),
        ([1, 1, 1], [1], 0.5, 3 / 4, 1.0),  # all equal
        ([2, 2], [2, 1], 0.75, 2 / 3, 0.5),  # ties count half
        ([4, 2], [3, 1], 0.75, (1 + 2 / 3) / 2, 0.5),
        (range(1, 101), [5.5] * 5 + [6.5] * 5, 0.95 * 0.5 + 0.94 * 0.5, None, 0.5),  # 95 % pass at 6, 5 others as well
    ],
)
def test_separation_by_hand(inside, outside, auroc, precision, fpr):
    found = ood.separation(np.array(inside, float), np.array(outside, float))
    assert found["status"] == "ok"
    assert (found["n_in_distribution"], found["n_other"]) == (len(inside), len(outside))
    assert found["average_precision_by_chance"] == len(inside) / (len(inside) + len(outside))
    assert found["auroc"] == pytest.approx(auroc)
    assert found["fpr_at_95_tpr"] == pytest.approx(fpr)
    if precision is not None:
        assert found["average_precision"] == pytest.approx(precision)


@pytest.fixture
def drawn() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.normal(1, 1, 80).round(1), random.normal(0, 1, 50).round(1)  # rounded: with ties


def test_separation_by_brute_force(drawn):
    inside, outside = drawn
    found = ood.separation(inside, outside)
    pairs = (inside[:, None] > outside) + 0.5 * (inside[:, None] == outside)
    assert found["auroc"] == pytest.approx(pairs.mean())
    thresholds = [t for t in inside if (inside >= t).mean() >= 0.95]
    assert found["fpr_at_95_tpr"] == pytest.approx((outside >= max(thresholds)).mean())
    precision, recall = 0.0, 0.0
    for t in sorted(set(inside), reverse=True):
        step = (inside >= t).mean() - recall
        recall += step
        precision += step * (inside >= t).sum() / ((inside >= t).sum() + (outside >= t).sum())
    assert found["average_precision"] == pytest.approx(precision)


def test_separation_depends_on_ranks_and_turns_round(drawn):
    inside, outside = drawn
    found = ood.separation(inside, outside)
    assert ood.separation(np.exp(inside), np.exp(outside)) == pytest.approx(found)
    assert ood.separation(outside, inside)["auroc"] == pytest.approx(1 - found["auroc"])
    assert ood.separation(-inside, -outside)["auroc"] == pytest.approx(1 - found["auroc"])
    assert ood.separation(inside, inside)["auroc"] == pytest.approx(0.5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_give_no_number(value):
    found = ood.separation(np.array([1.0, value]), np.array([0.0]))
    assert found["status"] == "the score of 1 of 3 images is not finite"
    assert {found[key] for key in ("auroc", "average_precision", "fpr_at_95_tpr")} == {None}
    assert (found["n_in_distribution"], found["n_other"]) == (2, 1)
    assert ood.spread(np.array([1.0, value])) == {"n_images": 2, "energy_mean": None, "energy_std": None}
    assert ood.spread(np.array([1.0, 3.0])) == {"n_images": 2, "energy_mean": 2.0, "energy_std": 1.0}


def test_log_odds_rank_as_the_probability_does_and_go_on_where_it_is_1():
    logits = np.random.default_rng(0).normal(0, 3, (200, 10))
    p = softmax(logits, axis=1).max(axis=1)
    assert ood.log_odds(logits) == pytest.approx(np.log(p / (1 - p)))
    sure = np.array([[50.0, 0, 0], [90.0, 0, 0], [90.0, 1, 0]], np.float32)
    assert (softmax(sure, axis=1).max(axis=1) == 1).all()
    assert ood.log_odds(sure).argsort().tolist() == [0, 2, 1]
    assert ood.log_odds(np.ones((3, 1))).tolist() == [0, 0, 0]
    assert ood.log_odds(np.array([[1e4, -1e4]])).tolist() == [2e4]


def test_shape_that_fits_is_left_alone():
    images = bytes_of(3, 1, 8, 8)
    assert ood.to_shape(images, (1, 8, 8)) is images


def test_grey_is_repeated_and_colours_become_grey_as_in_pil():
    grey, colours = bytes_of(3, 1, 8, 8), bytes_of(3, 3, 8, 8)
    assert torch.equal(ood.to_shape(grey, (3, 8, 8)), grey.repeat(1, 3, 1, 1))
    found = ood.to_shape(colours, (1, 8, 8))
    expected = [np.asarray(Image.fromarray(image.permute(1, 2, 0).numpy()).convert("L")) for image in colours]
    assert np.abs(found[:, 0].numpy().astype(int) - np.stack(expected)).max() <= 1  # PIL's weights have 16 bits
    assert torch.equal(ood.to_shape(ood.to_shape(grey, (3, 8, 8)), (1, 8, 8)), grey)


@pytest.mark.parametrize("size", [5, 16, 13])
def test_size_changes_as_torchvision_changes_it(size):
    images = bytes_of(7, 3, 11, 11)
    found = ood.to_shape(images, (3, size, size), batch_size=3)
    assert torch.equal(found, resize(images.float(), [size, size], antialias=True).round().clamp(0, 255).byte())
    flat = torch.arange(250, 256, dtype=torch.uint8).view(6, 1, 1, 1).expand(6, 3, 11, 11)
    assert torch.equal(ood.to_shape(flat, (3, size, size)), flat[:, :, :1, :1].expand(6, 3, size, size))
    grey = ood.to_shape(images, (1, size, size)).float()
    assert (grey - ood.to_shape(found, (1, size, size)).float()).abs().max() <= 1  # in which order does not matter


def test_interpolated_images_are_means_of_two():
    images = bytes_of(6, 3, 4, 4)
    found = ood.make("interpolated", images, 0)
    for index, image in enumerate(found):
        mean = (images[index].double() + images[index - 1].double()) / 2
        assert torch.equal(image.double(), (mean + 0.25).round())  # halves up
    assert not any(torch.equal(a, b) for a, b in zip(found, images, strict=True))
    white = torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)
    assert torch.equal(ood.make("interpolated", white, 0), white)


def test_constant_images_are_of_one_colour_each():
    found = ood.make("constant", bytes_of(3000, 3, 4, 4), 0)
    assert found.shape == (3000, 3, 4, 4)
    assert torch.equal(found, found[:, :, :1, :1].expand(-1, -1, 4, 4))
    levels = found[:, :, 0, 0].double()
    assert float(levels.mean()) == pytest.approx(127.5, abs=3)
    assert abs(float(np.corrcoef(levels.T)[0, 1])) < 0.1  # red says nothing of green
    assert (found.min(), found.max()) == (0, 255)


def test_noise_is_uniform():
    found = ood.make("noise", bytes_of(400, 1, 16, 16), 0)
    counts = torch.bincount(found.flatten().int(), minlength=256).double()
    chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
    assert 170 < float(chi) < 345  # 255 degrees of freedom: four deviations
    assert abs(float(np.corrcoef(found[:, 0, 0, 0], found[:, 0, 0, 1])[0, 1])) < 0.2


@pytest.mark.parametrize("kind", ["constant", "noise"])
def test_made_images_depend_on_the_seed_alone(kind):
    first = ood.make(kind, bytes_of(5, 1, 8, 8, seed=0), 0)
    assert torch.equal(first, ood.make(kind, bytes_of(5, 1, 8, 8, seed=1), 0))
    assert not torch.equal(first, ood.make(kind, bytes_of(5, 1, 8, 8), 1))


def test_choice_is_without_replacement_and_by_seed():
    images = torch.arange(20).view(20, 1, 1, 1)
    found = ood.choose(images, 8, "a", 0).flatten()
    assert len(set(found.tolist())) == 8
    assert torch.equal(found, ood.choose(images, 8, "a", 0).flatten())
    assert not torch.equal(found, ood.choose(images, 8, "a", 1).flatten())
    assert sorted(ood.choose(images, 100, "a", 0).flatten().tolist()) == list(range(20))


def test_scores_are_high_in_distribution():
    model = linear_model((1, 4, 4), 5)
    images = bytes_of(9, 1, 4, 4)
    x = bytes_to_unit(images)
    found = ood.scores(model, images, 4, classifies=True)
    with torch.no_grad():
        assert found["negative_energy"] == pytest.approx(-model.energy(x).numpy(), abs=1e-6)
        p = model.logits(x).double().softmax(dim=1).amax(dim=1)
    assert found["class_probability"] == pytest.approx(torch.logit(p).numpy(), abs=1e-5)
    assert found["negative_gradient_norm"] == pytest.approx(-gradient_norms(model, images, 9).numpy(), rel=1e-5)
    assert found["negative_gradient_norm"] == pytest.approx(-float(model.energy_head.weight.norm().detach()), rel=1e-5)
    assert list(found) == list(ood.SCORES)
    assert "class_probability" not in ood.scores(model, images, 4, classifies=False)


def test_a_score_that_says_nothing_has_the_average_precision_of_chance():
    random = np.random.default_rng(0)
    found = ood.separation(random.random(3000), random.random(1000))
    assert found["average_precision_by_chance"] == 0.75
    assert found["average_precision"] == pytest.approx(0.75, abs=0.02)
    assert found["auroc"] == pytest.approx(0.5, abs=0.03)


@pytest.mark.parametrize(("n", "order"), [(6, [0, 1, 2, 3, 4, 5]), (5, [0, 1, 2, 3, 4, 0]), (2, [0, 1, 0])])
def test_the_last_batch_is_filled_up_by_the_first_images(n, order):
    images = torch.arange(n).view(n, 1, 1, 1)
    assert ood.full_batches(images, 3).flatten().tolist() == order


class Brightness(nn.Module):
    """A backbone of BatchNorm alone: one feature, the mean of an image's normalised pixels."""

    n_features = 1

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(1, affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x).mean(dim=(1, 2, 3)).unsqueeze(1)


def test_two_statistics_are_two_scores():
    """Bright images of the model's own, dark ones of another set, and an energy that is low on bright images.

    Running averages tell the sets apart. By its own statistics each batch has the same mean brightness.
    """
    model = EnergyModel(Brightness(), 2).eval()
    with torch.no_grad():
        model.energy_head.weight.fill_(1.0)
        model.energy_head.bias.zero_()
    bright, dark = 200 + bytes_of(70, 1, 4, 4) // 5, bytes_of(64, 1, 4, 4, seed=1) // 5

    def by_hand(images: torch.Tensor) -> np.ndarray:
        """f of batches of 20, the last one filled up from the first."""
        order = [index % len(images) for index in range(80)]
        x = bytes_to_unit(images[order], torch.float64).view(4, 20, -1)
        mean, var = x.mean(dim=(1, 2), keepdim=True), x.var(dim=(1, 2), keepdim=True, correction=0)
        return ((x - mean) / (var + 1e-5).sqrt()).mean(dim=2).flatten()[: len(images)].numpy()

    own, other = (ood.scores(model, images, 20, False) for images in (bright, dark))
    assert ood.separation(own["negative_energy"], other["negative_energy"])["auroc"] == 1.0
    assert ood.separation(other["negative_energy"], own["negative_energy"])["auroc"] == 0.0
    own, other = (ood.scores(model, images, 20, False, "batch") for images in (bright, dark))
    assert own["negative_energy"] == pytest.approx(by_hand(bright), abs=1e-4)
    assert other["negative_energy"] == pytest.approx(by_hand(dark), abs=1e-4)
    auroc = ood.separation(own["negative_energy"], other["negative_energy"])["auroc"]
    assert auroc == pytest.approx(ood.separation(by_hand(bright), by_hand(dark))["auroc"], abs=1e-3)
    assert 0.4 < auroc < 0.6
    assert len(own["negative_energy"]) == len(own["negative_gradient_norm"]) == 70


def test_range_keeps_the_in_distribution_set_readable():
    own = np.linspace(0, 1, 1001)
    assert ood.energy_range([own, own + 1]) == pytest.approx((0.01, 1.99))
    low, high = ood.energy_range([own, own - 1e6, np.array([np.nan, np.inf])])
    assert low == pytest.approx(0.01 - 6 * 0.98)
    assert high == pytest.approx(0.99)
    assert ood.energy_range([np.array([np.nan]), np.array([np.inf])]) == (0, 1)
    low, high = ood.energy_range([np.full(5, 3.0), np.full(5, 3.0)])
    assert low <= 3 <= high


@pytest.fixture(scope="module")
def trained(digits):
    return classifier(digits, iterations=20)


@pytest.fixture
def run(tmp_path, trained, digits) -> SmallRun:
    """With a set of 50 coloured images of 12x12 to compare with."""
    run = SmallRun(tmp_path)
    run.write_checkpoint(trained, (1, 8, 8), 10, pyx_weight=1.0)
    run.write_images("test.npz", digits.images[:70], digits.labels[:70])
    save_images(tmp_path / "compared" / "other_digits" / "test.npz", bytes_of(50, 3, 12, 12).numpy())
    return run


def look(run: SmallRun, *argv: object, out: str = "out") -> int:
    return run.call(stage, "--compared", run.folder / "compared", *argv, out=out)


def test_stage_twice_gives_equal_bytes(run):
    assert look(run, out="a") == look(run, out="b") == 0
    assert run.files("a") == run.files("b")
    assert set(run.files("a")) == {"metrics.json", "figures/energies.svg", "figures/auroc.svg"}


def test_stage_measures_every_set_by_every_score(run, trained, digits):
    assert look(run) == 0
    record = run.record()
    assert (record["status"], record["positive"]) == ("ok", "in-distribution")
    assert {"checkpoint_sha256", "test_sha256", "seed", "bn_stats"} <= set(record)
    assert list(by_set(record)) == ["other_digits", "interpolated", "constant", "noise"]
    assert record["in_distribution"]["n_images"] == 60
    assert [about["n_images"] for about in by_set(record).values()] == [50, 60, 60, 60]
    assert by_set(record)["other_digits"]["part"] == "test"
    for about in by_set(record).values():
        assert list(about["scores"]) == list(ood.SCORES)
        assert all(numbers["status"] == "ok" and 0 <= numbers["auroc"] <= 1 for numbers in about["scores"].values())
    own = ood.choose(digits.images[:70], 60, "ood held-out", 0)
    noise = ood.make("noise", own, 0)
    with torch.no_grad():
        expected = ood.separation(-trained.energy(bytes_to_unit(own)), -trained.energy(bytes_to_unit(noise)))
    found = by_set(record)["noise"]["scores"]["negative_energy"]
    assert found["auroc"] == pytest.approx(expected["auroc"], abs=1e-3)
    other = by_set(record)["other_digits"]["scores"]["negative_energy"]
    assert (other["n_in_distribution"], other["n_other"]) == (60, 50)
    assert other["average_precision_by_chance"] == 60 / 110


def test_stage_with_the_statistics_of_training(run, trained, digits):
    """Every set in batches of its own, in their order; the last one is filled up, for energies and gradients alike."""
    assert look(run, "--bn-stats", "batch", "--batch-size", 25) == look(run, out="running") == 0
    record = run.record()
    assert (record["bn_stats"], record["batch_size"]) == ("batch", 25)
    assert (run.record("running")["bn_stats"], run.record("running")["batch_size"]) == ("running", 100)
    own = ood.choose(digits.images[:70], 60, "ood held-out", 0)
    training, found = copy.deepcopy(trained).train(), {}
    constant = ood.choose(ood.make("constant", own, 0), 60, "ood constant", 0)
    for name, images in (("own", own), ("constant", constant)):
        energies, norms = [], []
        for batch in (images[:25], images[25:50], torch.cat([images[50:], images[:15]])):
            x = bytes_to_unit(batch).requires_grad_(True)
            energy = training.energy(x)
            norms.append(torch.autograd.grad(energy.sum(), x)[0].flatten(1).norm(dim=1))
            energies.append(energy.detach())
        found[name] = [-torch.cat(values)[:60].numpy() for values in (energies, norms)]
    for score, inside, outside in zip(("negative_energy", "negative_gradient_norm"), *found.values(), strict=True):
        expected = ood.separation(inside, outside)["auroc"]
        assert record[score]["constant"]["auroc"] == pytest.approx(expected, abs=1e-3), score
        assert abs(expected - run.record("running")[score]["constant"]["auroc"]) > 0.01, score
    assert "AUROC with batch statistics" in run.files()["figures/auroc.svg"].decode()
    assert "energies with batch statistics" in run.files()["figures/energies.svg"].decode()


def test_stage_without_a_classifier_and_without_labels(run, trained, digits):
    run.write_checkpoint(trained, (1, 8, 8), 10, pyx_weight=0.0)
    run.write_images("test.npz", digits.images[:70])
    assert look(run) == 0
    assert run.record()["class_probability"] == {"status": "no classifier: pyx_weight is 0"}
    assert list(by_set(run.record())) == ["other_digits", "interpolated", "constant", "noise"]
    for about in by_set(run.record()).values():
        assert list(about["scores"]) == ["negative_energy", "negative_gradient_norm"]
        assert about["scores"]["negative_energy"]["status"] == "ok"
    assert "largest class probability" not in run.files()["figures/auroc.svg"].decode()


def test_stage_without_held_out_images(run, digits):
    run.write_images("test.npz", digits.images[:0])
    assert look(run) == 0
    assert run.record()["status"] == "no held-out images: all train"
    assert "no held-out images" in run.files()["figures/energies.svg"].decode()


def test_stage_takes_the_training_part_where_no_other_is(run):
    folder = run.folder / "compared" / "other_digits"
    save_images(folder / "test.npz", np.zeros((0, 1, 8, 8), np.uint8))
    save_images(folder / "train.npz", bytes_of(5, 1, 8, 8).numpy())
    assert look(run) == 0
    about = by_set(run.record())["other_digits"]
    assert (about["part"], about["n_images"]) == ("train", 5)


def test_stage_does_not_compare_a_set_with_itself(run):
    (run.folder / "compared" / "other_digits" / "test.npz").write_bytes((run.folder / "test.npz").read_bytes())
    assert look(run) == 0
    about = by_set(run.record())["other_digits"]
    assert about["status"] == "the run's own held-out images"
    assert about["scores"] == {}
    assert "other_digits" not in run.files()["figures/auroc.svg"].decode()


def test_stage_with_energies_that_are_not_finite(run, trained):
    broken = copy.deepcopy(trained)
    with torch.no_grad():
        broken.energy_head.bias.fill_(torch.nan)
    run.write_checkpoint(broken, (1, 8, 8), 10, pyx_weight=1.0)
    assert look(run) == 0
    record = run.record()
    assert record["in_distribution"]["energy_mean"] is None
    scores = by_set(record)["noise"]["scores"]
    assert scores["negative_energy"]["status"] == "the score of 120 of 120 images is not finite"
    assert scores["class_probability"]["status"] == "ok"


def test_stage_with_sets_of_the_command_line(run, capsys):
    assert look(run, "--sets", "[]", "--n-images", "9") == 0
    record = run.record()
    assert list(by_set(record)) == list(MADE_SETS)
    assert record["in_distribution"]["n_images"] == 9
    assert look(run, "--sets", "[svhn]", out="b") == 2
    assert (
        "error: --sets: the suite compares with no set 'svhn', expected some of other_digits" in capsys.readouterr().err
    )
    assert run.files("b") == {}


def test_stage_without_a_compared_set(run, capsys):
    (run.folder / "compared" / "other_digits" / "test.npz").unlink()
    assert look(run) == 1
    assert "other_digits/test.npz: no such file" in capsys.readouterr().err


def test_resolved_parameters_name_the_compared_sets(smoke_params, tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(smoke_params))
    assert load_params(path).resolve("ood", "mjem").compared == ["other_digits"]
    smoke_params["suite"]["compared"]["noise"] = smoke_params["suite"]["compared"].pop("other_digits")
    path.write_text(yaml.safe_dump(smoke_params))
    with pytest.raises(ParamsError, match=r"compared\.noise: the name is taken by images that are made"):
        load_params(path)


def test_a_figure_that_fails_leaves_no_record(run, digits, monkeypatch, capsys):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    for name in ("figure", "message"):
        monkeypatch.setattr(stage, name, full)
    assert look(run) == 1
    assert "No space left on device" in capsys.readouterr().err
    assert run.files() == {}
    run.write_images("test.npz", digits.images[:0])
    assert look(run) == 1
    assert run.files() == {}


def test_equal_energies_are_drawn_without_a_warning(run, recwarn):
    for energy in (3.0, 0.0, -1e7):
        low, high = ood.energy_range([np.full(5, energy), np.full(4, energy)])
        assert low < energy < high
    energies = {"noise": np.full(5, 3.0)}
    stage.draw_energies(
        run.folder / "a.svg",
        "digits",
        np.full(5, 3.0),
        energies,
        {"noise": {"scores": {"negative_energy": {"auroc": None}}}},
    )
    assert [str(warning.message) for warning in recwarn] == []
