"""The replay buffer in order: ranking, summaries, the pictures, and the stage."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.special
import scipy.stats
import smoke
import torch
import yaml
from PIL import Image

from mebm.analyses.pictures import (
    class_shares,
    class_summary,
    draw_groups,
    energy_summary,
    ranked,
    ranked_by_class,
)
from mebm.data.images import unit_to_bytes
from mebm.errors import MetricError
from mebm.measure.selection import classify
from mebm.method.energy import build_model
from mebm.training.checkpoint import Checkpoint, save_checkpoint
from stages import pictures

ARCHITECTURE = {"depth": 10, "width": 1, "head": "energy", "norm": "batch", "dropout": 0.0}
NAMES = ("by_class", "best_by_energy", "worst_by_energy", "best_by_probability", "worst_by_probability")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_classes_and_probabilities_are_those_of_a_softmax():
    logits = torch.randn(50, 7, generator=generator()) * 10
    predicted, probability = classify(logits)
    expected = scipy.special.softmax(logits.double().numpy(), axis=1)
    assert np.array_equal(predicted.numpy(), expected.argmax(1))
    assert np.allclose(probability.numpy(), expected.max(1), rtol=1e-12)


def test_probabilities_that_are_1_in_float32_still_have_an_order():
    logits = torch.tensor([[20.0, 0.0], [25.0, 0.0], [22.0, 0.0]])
    assert len(logits.softmax(dim=1)[:, 0].unique()) == 1
    predicted, probability = classify(logits)
    assert [part.tolist() for part in ranked_by_class(probability, predicted, 2, 3, largest=True)] == [[1, 2, 0], []]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_values_that_are_not_finite(value):
    with pytest.raises(MetricError, match="class logits of the replay buffer are not finite"):
        classify(torch.tensor([[0.0, value]]))
    with pytest.raises(MetricError, match="energies of the replay buffer are not finite"):
        energy_summary(torch.tensor([0.0, value]))


@pytest.mark.parametrize("largest", [False, True])
def test_ranking_agrees_with_sorting_by_hand(largest):
    values = torch.randint(0, 5, (40,), generator=generator()).float()  # with equal ones
    predicted = torch.randint(0, 3, (40,), generator=generator(1)) * 2  # classes 1 and 3 are empty
    order = sorted(range(40), key=lambda i: (-values[i] if largest else values[i], i))
    assert ranked(values, 7, largest=largest).tolist() == order[:7]
    expected = [[i for i in order if predicted[i] == label][:7] for label in range(5)]
    assert [part.tolist() for part in ranked_by_class(values, predicted, 5, 7, largest=largest)] == expected


def test_shares_and_their_entropy():
    even = class_summary(class_shares(torch.arange(12) % 4, 4))
    assert even["class_shares"] == [0.25] * 4
    assert even["class_entropy"] == pytest.approx(even["class_entropy_at_most"])
    assert even["class_entropy_at_most"] == pytest.approx(math.log(4))
    one = class_summary(class_shares(torch.full((5,), 2), 4))
    assert (one["class_entropy"], one["empty_classes"]) == (0, 3)
    predicted = torch.tensor([0, 0, 0, 3, 3, 1])
    assert class_summary(class_shares(predicted, 4))["class_entropy"] == pytest.approx(
        scipy.stats.entropy([3, 1, 0, 2])
    )


def test_summary_of_energies():
    assert energy_summary(torch.tensor([1.0, 3.0, -4.0])) == {
        "energy_mean": 0.0,
        "energy_std": pytest.approx(math.sqrt(26 / 3)),
        "energy_lowest": -4.0,
        "energy_highest": 3.0,
    }


@pytest.mark.parametrize("across", [False, True])
def test_groups_are_drawn_pixel_by_pixel(tmp_path, across):
    """Each pixel is a square of whole pixels, groups are rows (or columns), and what is missing stays white."""
    groups = [torch.randint(1, 200, (n, 3, 5, 5), generator=generator(n)).to(torch.uint8) for n in (2, 0, 3)]
    draw_groups(tmp_path / "g.png", "title", groups, ["0", "1", "2"], [] if across else ["a", "", "c"], across)
    picture = np.asarray(Image.open(tmp_path / "g.png").convert("RGB"))
    left, top, scale = 40, 56 if across else 30, 12  # margins, and 64 // 5
    for group, images in enumerate(groups):
        for index in range(3):
            row, column = (index, group) if across else (group, index)
            y, x = (top + scale * (1 + 6 * row)), (left + scale * (1 + 6 * column))
            cell = picture[y : y + 5 * scale, x : x + 5 * scale]
            image = images[index].permute(1, 2, 0).numpy() if index < len(images) else np.full((5, 5, 3), 255, np.uint8)
            assert np.array_equal(cell, image.repeat(scale, 0).repeat(scale, 1)), (group, index)


# --- the stage


@pytest.fixture
def run(tmp_path):
    """Calls the stage on a checkpoint of a small random network with a buffer of random images."""
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(smoke.smoke_params()))

    def call(*argv: object, out="out", size=60, n_classes=4, pyx_weight=1.0, change=None, **architecture) -> Checkpoint:
        torch.manual_seed(0)
        settings = {**ARCHITECTURE, **architecture}
        model = build_model((1, 8, 8), n_classes, **settings).eval()
        with torch.no_grad():
            model.class_head.weight.mul_(30)
            if change:
                change(model)
        buffer = torch.rand(size, 1, 8, 8, generator=generator()) * 2 - 1
        checkpoint = Checkpoint(model, buffer, {**settings, "pyx_weight": pyx_weight}, (1, 8, 8), n_classes, 1)
        save_checkpoint(tmp_path / "checkpoint.pt", checkpoint)
        words = ["--run", "mjem", "--params", tmp_path / "params.yaml", "--logs", tmp_path / "logs"]
        words += ["--checkpoint", tmp_path / "checkpoint.pt", "--out", tmp_path / out, *argv]
        checkpoint.status = pictures.main([str(word) for word in words])
        return checkpoint

    return call


@pytest.fixture
def drawn(monkeypatch):
    """What the stage hands to draw_groups, by the picture's name."""
    calls = {}

    def draw(path, title, groups, heads, notes=(), across=False):
        calls[path.stem] = (title, groups, heads, notes, across)
        draw_groups(path, title, groups, heads, notes, across)

    monkeypatch.setattr(pictures, "draw_groups", draw)
    return calls


def record(folder: Path) -> dict:
    text = (folder / "metrics.json").read_text()
    assert "NaN" not in text
    return json.loads(text)


def index_of(images: torch.Tensor, groups: list[torch.Tensor]) -> list[list[int]]:
    """Places of a picture's images in the buffer, whose images are all different."""
    return [[int((images == image).flatten(1).all(1).nonzero()) for image in group] for group in groups]


def test_pictures_of_a_classifier(run, drawn, tmp_path):
    checkpoint = run("--per-class", 6, "--ranked", 5)
    assert checkpoint.status == 0
    with torch.no_grad():
        energy = checkpoint.model.energy(checkpoint.replay_buffer)
        probability, predicted = checkpoint.model.logits(checkpoint.replay_buffer).softmax(1).max(1)
    images = unit_to_bytes(checkpoint.replay_buffer)
    assert set(drawn) == set(NAMES)
    assert all((tmp_path / "out" / "figures" / f"{name}.png").is_file() for name in NAMES)
    for name, n, values, sign in (
        ("by_class", 6, probability, -1),
        ("best_by_energy", 5, energy, 1),
        ("worst_by_energy", 5, energy, -1),
        ("best_by_probability", 5, probability, -1),
        ("worst_by_probability", 5, probability, 1),
    ):
        _, groups, heads, _, across = drawn[name]
        assert across == (name == "by_class")
        assert [head[0] for head in heads] == list("0123")
        for label, found in enumerate(index_of(images, groups)):
            members = (predicted == label).nonzero().squeeze(1).tolist()
            assert found == sorted(members, key=lambda i: sign * float(values[i]))[:n], (name, label)
    first = drawn["best_by_energy"]
    lowest = [float(energy[predicted == label].min()) for label in range(4)]
    assert [float(note.split(" to ")[0]) for note in first[3]] == pytest.approx(lowest, abs=6e-5)

    found = record(tmp_path / "out")
    assert (found["status"], found["n_images"], found["bn_stats"]) == ("ok", 60, "running")
    assert found["classes"]["status"] == "ok"
    assert found["classes"]["class_shares"] == pytest.approx(
        (torch.bincount(predicted, minlength=4) / 60).tolist(), abs=1e-6
    )
    assert found["classes"]["mean_probability"] == pytest.approx(float(probability.mean()))
    assert found["energy_lowest"] == pytest.approx(float(energy.min()))
    assert found["energy_highest"] == pytest.approx(float(energy.max()))


def test_a_model_without_a_classifier_is_ranked_by_energy_as_a_whole(run, drawn, tmp_path):
    checkpoint = run("--ranked", 3, pyx_weight=0.0)
    assert checkpoint.status == 0
    with torch.no_grad():
        energy = checkpoint.model.energy(checkpoint.replay_buffer)
    assert set(drawn) == {"best_by_energy", "worst_by_energy"}
    for name, order in (("best_by_energy", energy.argsort()), ("worst_by_energy", (-energy).argsort())):
        groups = drawn[name][1]
        assert [len(group) for group in groups] == [3] * 10
        assert torch.equal(torch.cat(groups), unit_to_bytes(checkpoint.replay_buffer)[order[:30]])
        assert drawn[name][2] == [str(rank) for rank in range(1, 31, 3)]
    sizes = {name: Image.open(tmp_path / "out" / "figures" / f"{name}.png").size for name in NAMES}
    assert sizes["by_class"] == sizes["best_by_probability"] == sizes["worst_by_probability"] == (500, 80)
    found = record(tmp_path / "out")
    assert found["status"] == "ok"
    assert found["classes"] == {"status": "no classifier: pyx_weight is 0"}
    assert found["energy_mean"] == pytest.approx(float(energy.mean()))


@pytest.mark.parametrize("pyx_weight", [0.0, 1.0])
def test_a_buffer_smaller_than_the_pictures(run, tmp_path, pyx_weight):
    assert run(size=1, pyx_weight=pyx_weight).status == 0
    assert len(list((tmp_path / "out" / "figures").iterdir())) == 5


def test_an_empty_class_keeps_its_place(run, drawn, tmp_path):
    def never_2(model):
        model.class_head.bias[2] = -1e4

    assert run(change=never_2).status == 0
    assert len(drawn["by_class"][1][2]) == 0
    assert drawn["by_class"][2][2] == "2\n0 %"
    assert drawn["best_by_energy"][3][2] == ""
    assert record(tmp_path / "out")["classes"]["empty_classes"] == 1


def test_of_many_classes_the_largest_are_shown(run, drawn, monkeypatch, tmp_path):
    monkeypatch.setattr(pictures, "SHOWN", 3)
    assert run(n_classes=12).status == 0
    shares = record(tmp_path / "out")["classes"]["class_shares"]
    largest = sorted(sorted(range(12), key=lambda i: -shares[i])[:3])
    title, groups, heads, _, _ = drawn["worst_by_probability"]
    assert heads == [str(label) for label in largest]
    assert all(len(group) for group in groups)
    assert title.startswith("3 largest of 12 classes: ")


def test_twice_gives_the_same_bytes(run, tmp_path):
    assert run(out="one").status == run(out="two").status == 0
    one, two = ([path.read_bytes() for path in sorted((tmp_path / n).rglob("[!.]*.*"))] for n in ("one", "two"))
    assert len(one) == 6
    assert one == two


def test_batches_do_not_matter(run, tmp_path):
    """BatchNorm runs in evaluation mode."""
    assert run(out="one").status == 0
    content = smoke.smoke_params()
    content["compute"]["eval_batch_size"] = 7
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    assert run(out="two").status == 0
    one, two = record(tmp_path / "one"), record(tmp_path / "two")
    assert one["classes"]["class_shares"] == two["classes"]["class_shares"]
    assert one["energy_mean"] == pytest.approx(two["energy_mean"], abs=1e-6)


@pytest.mark.parametrize("pyx_weight", [0.0, 1.0])
def test_energies_that_are_not_finite_leave_nothing(run, capsys, tmp_path, pyx_weight):
    def broken(model):
        model.energy_head.weight[0, 0] = math.nan

    assert run(change=broken, pyx_weight=pyx_weight).status == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert lines == ["error: energies of the replay buffer are not finite; the run's weights have diverged"]
    assert not (tmp_path / "out").exists()


def test_more_images_than_a_picture_holds_are_refused(run, capsys):
    assert run("--ranked", 101).status == 2
    assert "error: --ranked: is 101" in capsys.readouterr().err
