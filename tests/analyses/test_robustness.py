"""The attack on linear classifiers, whose weakest perturbation is known; balls and ranges; the stage around it."""

from itertools import pairwise

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_run import SmallRun, classifier, linear_model, refuses_on_a_full_disk

from mebm.analyses.robustness import UNITS, attack, direction, other_odds, project, survivors, unit_ball
from mebm.data.images import bytes_to_unit
from mebm.errors import MetricError
from mebm.measure.accuracy import accuracy_and_loss
from mebm.seeds import generator_for
from stages import robustness

SHAPE = (1, 4, 4)
HOW = {"steps": 100, "step_ratio": 2.5, "restarts": 1, "seed": 0, "batch_size": 1200}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def linear():
    """A linear classifier of two classes with 300 grey images, its weights' difference [D] and its margins [N].

    Labels are what it predicts, but for the last five. The margin is logit(label) - logit(other).
    """
    model = linear_model(SHAPE, 2)
    images = torch.randint(96, 160, (300, *SHAPE), dtype=torch.uint8, generator=generator())
    with torch.no_grad():
        logits = model.logits(bytes_to_unit(images))
        model.class_head.bias[1] -= (logits[:, 1] - logits[:, 0]).median()  # both classes occur
        logits = model.logits(bytes_to_unit(images))
        labels = logits.argmax(dim=1)
        labels[-5:] = 1 - labels[-5:]
        weight = (model.class_head.weight[1] - model.class_head.weight[0]).clone()
    margin = (logits[:, 1] - logits[:, 0]) * (2 * labels - 1)
    return model, images, labels, weight, margin


@pytest.fixture(scope="module")
def trained(digits):
    return classifier(digits)


@pytest.mark.parametrize(("norm", "radii"), [("linf", [0.5, 2.0, 5.0]), ("l2", [0.005, 0.02, 0.05])])
def test_linear_margin(linear, norm, radii):
    """sign(w) is the worst direction in L-infinity, w / |w| in L2: an image falls where radius * |w|_dual > margin."""
    model, images, labels, weight, margin = linear
    dual = weight.abs().sum() if norm == "linf" else weight.norm()
    for radius, found in survivors(model, images, labels, norm, radii, **HOW):
        needed = margin / (
            {"linf": 2 / 255, "l2": 2}[norm] * dual
        )  # the radius that is needed, in the literature's unit
        sure = (needed - radius).abs() > 0.02 * radius + 1e-6  # the attack comes near the worst point, not onto it
        assert sure.sum() > 280
        assert torch.equal(found[sure], (needed > radius)[sure])
        assert 0 < found.sum() < 300


def test_linear_margin_at_the_edge_of_the_range(linear):
    """A pixel that is black already cannot become darker, so the worst image is the clamped one."""
    model, images, _, weight, _ = linear
    images = torch.where(images > 127, 250, 3).to(torch.uint8)
    x = bytes_to_unit(images)
    labels = model.logits(x).argmax(dim=1)
    away = (1 - 2 * labels).view(-1, 1, 1, 1) * weight.sign().view(SHAPE)
    for radius, found in survivors(model, images, labels, "linf", [5.0, 20.0], **HOW):
        worst = (x + radius * 2 / 255 * away).clamp(-1, 1)
        assert torch.equal(found, model.logits(worst).argmax(dim=1) == labels)
        assert found.sum() > 0
    assert found.sum() < 300


def test_units_are_those_of_the_literature():
    assert pytest.approx(2 / 255) == UNITS["linf"]
    x = bytes_to_unit(torch.tensor([100, 101], dtype=torch.uint8))
    assert float(x[1] - x[0]) == pytest.approx(UNITS["linf"], rel=1e-5)
    assert UNITS["l2"] == 2


def length(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).norm(dim=1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_projection(norm):
    x = torch.rand((50, 3, 4, 4), generator=generator(0)) * 2 - 1
    moved = x + 2 * torch.randn(x.shape, generator=generator(1))
    found = project(moved, x, norm, 0.3)
    offset = found - x
    size = offset.abs().flatten(1).amax(dim=1) if norm == "linf" else length(offset)
    assert float(size.max()) <= 0.3 + 1e-6
    assert float(found.abs().max()) <= 1
    assert torch.allclose(project(found, x, norm, 0.3), found, atol=1e-6)  # what is inside stays
    inside = (x + 0.01 * torch.randn(x.shape, generator=generator(2))).clamp(-1, 1)
    assert torch.allclose(project(inside, x, norm, 0.3), inside, atol=1e-6)
    assert torch.allclose(project(moved, x, norm, 0.0), x, atol=1e-6)
    if norm == "linf":
        assert torch.allclose(found, moved.clamp(x - 0.3, x + 0.3).clamp(-1, 1), atol=1e-6)
    else:  # far from the range's ends it is the nearest point of the ball
        grey = torch.zeros_like(x)
        nearest = 0.3 * moved / length(moved).view(-1, 1, 1, 1)
        assert torch.allclose(project(moved, grey, norm, 0.3), nearest, atol=1e-6)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_starts_are_uniform_in_the_unit_ball(norm):
    points = unit_ball((4000, 1, 2, 2), norm, generator()).flatten(1)
    size = points.abs().amax(dim=1) if norm == "linf" else points.norm(dim=1)
    assert float(size.max()) <= 1
    volume = size**4  # of the ball through the point, as a share: uniform where points are
    assert float(volume.mean()) == pytest.approx(1 / 2, abs=0.02)
    assert float(volume.std()) == pytest.approx(12**-0.5, abs=0.02)
    assert points.mean(dim=0).abs().max() < 0.05


def test_direction_goes_furthest_and_does_not_underflow():
    gradient = torch.randn((5, 3, 4, 4), generator=generator())
    assert torch.equal(direction(gradient, "linf"), gradient.sign())
    expected = gradient / length(gradient).view(-1, 1, 1, 1)
    for scale in (1.0, 1e-30, 1e30):
        assert torch.allclose(direction(scale * gradient, "l2"), expected, atol=1e-5), scale
    for norm in ("linf", "l2"):
        assert not direction(torch.zeros(2, 1, 4, 4), norm).any()


def test_log_odds_point_where_the_cross_entropy_does():
    logits = torch.randn((20, 7), generator=generator(), dtype=torch.float64).requires_grad_(True)
    labels = torch.randint(0, 7, (20,), generator=generator())
    loss = F.cross_entropy(logits, labels, reduction="none")
    (of_loss,) = torch.autograd.grad(loss.sum(), logits)
    odds = other_odds(logits, labels)
    (of_odds,) = torch.autograd.grad(odds.sum(), logits)
    assert torch.allclose(of_loss, (1 - torch.exp(-loss)).detach()[:, None] * of_odds)
    assert torch.allclose(loss, F.softplus(odds))


def test_a_sure_classifier_is_attacked_all_the_same(linear):
    """Scaled by 1e4 the classifier is the same, but the cross-entropy and its gradient are exactly 0 in float32."""
    model, images, labels, _, _ = linear
    expected = dict(survivors(model, images, labels, "linf", [2.0], **HOW))
    sure = linear_model(SHAPE, 2)
    sure.load_state_dict(model.state_dict())
    with torch.no_grad():
        sure.class_head.weight *= 1e4
        sure.class_head.bias *= 1e4
    x = bytes_to_unit(images).requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(sure.logits(x), labels, reduction="none").sum(), x)
    assert (gradient.flatten(1).abs().amax(dim=1) == 0).float().mean() > 0.5
    found = dict(survivors(sure, images, labels, "linf", [2.0], **HOW))
    assert (found[2.0] != expected[2.0]).sum() <= 1


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_every_point_visited_is_in_ball_and_range(trained, digits, norm):
    x, radius = bytes_to_unit(digits.images[:16]), {"linf": 0.2, "l2": 1.5}[norm]
    seen = []
    hook = trained.backbone.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach().clone()))
    with torch.no_grad():
        labels = trained.logits(x).argmax(dim=1)
    seen.clear()
    attack(trained, x, labels, unit_ball(x.shape, norm, generator()), norm, radius, 10, 2.5)
    hook.remove()
    assert 1 <= len(seen) <= 11
    assert len(seen[0]) == 16
    for points in seen:
        assert float(points.abs().max()) <= 1
        offset = points[:, None] - x[None]
        size = offset.abs().amax(dim=(2, 3, 4)) if norm == "linf" else offset.flatten(2).norm(dim=2)
        assert float(size.amin(dim=1).max()) <= radius + 1e-5
    assert not torch.equal(seen[0], x)  # it starts at random


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_agrees_with_plain_descent_on_the_cross_entropy(trained, digits, norm):
    """One image at a time, all steps, cross-entropy itself, float64."""
    n, radius, steps = 12, {"linf": 0.15, "l2": 1.2}[norm], 8
    model = classifier(digits).double()
    x, labels = bytes_to_unit(digits.images[:n], torch.float64), digits.labels[:n]
    starts = unit_ball(x.shape, norm, generator()).double()
    expected = []
    for image, label, start in zip(x[:, None], labels[:, None], starts[:, None], strict=True):
        point, right = (image + radius * start).clamp(-1, 1), True
        for step in range(steps + 1):
            point.requires_grad_(True)
            logits = model.logits(point)
            right &= int(logits.argmax()) == int(label)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, label), point)
            if step < steps:
                way = gradient.sign() if norm == "linf" else gradient / gradient.norm()
                offset = point.detach() + 2.5 * radius / steps * way - image
                if norm == "linf":
                    offset = offset.clamp(-radius, radius)
                else:
                    offset = offset * min(1.0, radius / float(offset.norm()))
                point = (image + offset).clamp(-1, 1)
        expected.append(right)
    found = attack(model, x, labels, starts, norm, radius, steps, 2.5)
    assert found.tolist() == expected
    assert 0 < sum(expected) < n


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_accuracy_falls_with_the_radius_and_starts_clean(trained, digits, norm):
    images, labels = digits.images[:60], digits.labels[:60]
    radii = {"linf": [40.0, 5.0, 20.0, 5.0, 0.0], "l2": [1.5, 0.2, 0.6]}[norm]
    found = dict(survivors(trained, images, labels, norm, radii, **{**HOW, "steps": 5}))
    assert list(found) == sorted({0.0, *radii})
    kept = list(found.values())
    with torch.no_grad():
        assert torch.equal(kept[0], trained.logits(bytes_to_unit(images)).argmax(dim=1) == labels)
    assert all(bool((before | ~after).all()) for before, after in pairwise(kept))
    assert kept[0].sum() > kept[-1].sum()


def test_wrong_images_are_not_attacked(linear):
    model, images, labels, _, margin = linear
    seen = []
    hook = model.backbone.register_forward_pre_hook(lambda module, args: seen.append(len(args[0])))
    wrong = margin < 0
    found = dict(survivors(model, images[wrong], labels[wrong], "l2", [1.0], **HOW))
    hook.remove()
    assert seen == [5]  # the clean pass alone
    assert wrong.sum() == 5
    assert not any(kept.any() for kept in found.values())


def test_restarts_only_take_away(linear):
    """With steps of almost nothing the attack is a search at random, which more restarts make stronger."""
    model, images, labels, _, _ = linear
    how = {**HOW, "steps": 1, "step_ratio": 1e-9}
    kept = [dict(survivors(model, images, labels, "linf", [4.0], **{**how, "restarts": n}))[4.0] for n in (1, 2, 20)]
    for fewer, more in pairwise(kept):
        assert bool((fewer | ~more).all())
        assert more.sum() < fewer.sum()


def test_start_depends_on_seed_and_restart_only(linear):
    model, images, labels, _, _ = linear
    how = {**HOW, "steps": 1, "step_ratio": 1e-9}
    found = [
        dict(survivors(model, images, labels, "linf", [4.0], **{**how, "seed": seed, "batch_size": batch_size}))[4.0]
        for seed, batch_size in ((0, 1200), (0, 1200), (0, 100), (1, 1200))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])
    start = unit_ball(images.shape, "linf", generator_for("attack linf 0", 0))
    with torch.no_grad():
        logits = model.logits(bytes_to_unit(images) + 4 * 2 / 255 * start)
        clean = model.logits(bytes_to_unit(images))
    expected = (logits.argmax(dim=1) == labels) & (clean.argmax(dim=1) == labels)
    assert (expected != found[0]).sum() <= 1


def test_model_is_left_as_it_was(trained, digits):
    before = {key: value.clone() for key, value in trained.state_dict().items()}
    list(survivors(trained, digits.images[:8], digits.labels[:8], "l2", [0.5], **{**HOW, "steps": 2}))
    assert all(torch.equal(value, before[key]) for key, value in trained.state_dict().items())
    assert all(p.requires_grad for p in trained.parameters())
    assert not trained.training


def test_logits_that_are_not_finite():
    model = linear_model(SHAPE, 2)
    with torch.no_grad():
        model.class_head.bias.fill_(torch.nan)
    with pytest.raises(MetricError, match="class logits are not finite"):
        list(survivors(model, torch.zeros(2, *SHAPE, dtype=torch.uint8), torch.zeros(2).long(), "l2", [1.0], **HOW))
    x, starts = torch.zeros(2, *SHAPE), torch.zeros(2, *SHAPE)
    with pytest.raises(MetricError, match="class logits of attacked images are not finite"):
        attack(model, x, torch.zeros(2).long(), starts, "l2", 1.0, 2, 2.5)


@pytest.fixture
def run(tmp_path, trained, digits) -> SmallRun:
    run = SmallRun(tmp_path)
    run.write_checkpoint(trained, (1, 8, 8), 10, pyx_weight=1.0)
    run.write_images("test.npz", digits.images[:40], digits.labels[:40])
    return run


def test_stage_twice_gives_equal_bytes(run, trained, digits):
    assert run.call(robustness, out="a") == run.call(robustness, out="b") == 0
    assert run.files("a") == run.files("b")
    assert set(run.files("a")) == {"metrics.json", "figures/accuracy.svg"}
    record = run.record("a")
    assert record["status"] == "ok"
    assert record["n_images"] == 20
    with torch.no_grad():
        clean, _ = accuracy_and_loss(trained.logits(bytes_to_unit(digits.images[:20])), digits.labels[:20])
    assert record["clean_accuracy"] == pytest.approx(clean)
    assert [entry["radius"] for entry in record["linf"]] == [8.0, 64.0]
    assert [entry["radius"] for entry in record["l2"]] == [1.0]
    assert 1 >= record["clean_accuracy"] >= record["linf"][0]["accuracy"] >= record["linf"][1]["accuracy"] >= 0
    assert {"checkpoint_sha256", "test_sha256", "seed", "bn_stats", "steps", "step_ratio", "restarts"} <= set(record)


def test_stage_takes_parameters_from_the_command_line(run):
    assert run.call(robustness, "--radii-linf", "[0, 4]", "--radii-l2", "[]", "--n-images", "7", "--restarts", "2") == 0
    record = run.record()
    assert (record["n_images"], record["restarts"], record["l2"]) == (7, 2, [])
    assert record["linf"][0] == {"radius": 0, "accuracy": record["clean_accuracy"]}


@pytest.mark.parametrize(
    ("pyx_weight", "n", "status"),
    [(0.0, 40, "no classifier: pyx_weight is 0"), (1.0, 0, "no held-out images: all train")],
)
def test_stage_without_a_classifier_or_images(run, trained, digits, pyx_weight, n, status):
    run.write_checkpoint(trained, (1, 8, 8), 10, pyx_weight=pyx_weight)
    run.write_images("test.npz", digits.images[:n], digits.labels[:n] if pyx_weight else None)
    assert run.call(robustness) == 0
    assert run.record()["status"] == status
    assert status in run.files()["figures/accuracy.svg"].decode()


def test_stage_with_labels_that_do_not_fit(run, digits, capsys):
    run.write_images("test.npz", digits.images[:40], torch.from_numpy(np.arange(40) % 11))
    assert run.call(robustness) == 1
    assert "error: the held-out images' labels do not fit a classifier of 10 classes" in capsys.readouterr().err
    assert run.files() == {}


def test_a_figure_that_fails_leaves_no_record(run, digits, monkeypatch, capsys):
    refuses_on_a_full_disk(run, robustness, digits, monkeypatch, capsys)


def test_paths_that_are_missing_or_empty_end_in_what_to_do(run, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run.call(robustness, "--out", "") == 2
    assert "error: --out: is empty, expected the folder to write" in capsys.readouterr().err
    assert not (tmp_path / "metrics.json").exists()
    assert robustness.main(["--run", "mjem", "--test", "test.npz", "--params", "params.yaml", "--out", "o"]) == 2
    assert (
        "error: dvc.yaml: no such file. Paths default to those that dvc.yaml beside the parameter file names; "
        "give --checkpoint as well, or run in the project's folder"
    ) in capsys.readouterr().err
