"""Choice among the weights that a training kept: the rule, the numbers behind it, and what is held out for it."""

import math
import shutil

import pytest
import smoke
import torch

from mebm.data.images import ImageSet, unit_to_bytes
from mebm.data.split import digests_of
from mebm.data.validation import validation_split
from mebm.engine import code
from mebm.epochs import kept_epochs, look_epochs
from mebm.errors import CheckpointError, DataError, MetricError
from mebm.measure.accuracy import accuracy_and_loss
from mebm.measure.evaluation import score
from mebm.measure.features import extract, load_network, save_network
from mebm.measure.metrics import frechet_distance
from mebm.measure.networks.classifier import FeatureClassifier
from mebm.method.gaussian import GaussianInit, fit_gaussian
from mebm.settings.schema import Weights
from mebm.training.averages import settled, with_average
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mebm.training.choice import Maker, best, kept
from mebm.training.loop import train_model

CPU = torch.device("cpu")
TRAIN = smoke.section(
    "train",
    **{"pyx_weight": 1.0, "ema_decays": [0.5], "batch_size": 16, "label_batch_size": 250, "buffer_size": 80},
    **{"epochs": 3, "keep_every": 1, "validation_images": 300, "lr": 0.05},
)


@pytest.mark.parametrize(
    ("values", "highest", "lowest"),
    [
        ({5: 0.1, 10: 0.3, 15: 0.2}, 10, 5),
        ({5: 0.2, 10: 0.3, 15: 0.3}, 10, 5),  # of equal ones the earlier
        ({15: 0.3, 10: 0.3, 5: 0.3}, 5, 5),
        ({5: math.nan, 10: 0.1, 15: math.inf, 20: -math.inf}, 10, 10),
    ],
)
def test_the_best_is_finite_and_the_earliest_of_equal_ones(values, highest, lowest):
    assert (best(values, True), best(values, False)) == (highest, lowest)


def test_nothing_is_best_where_no_number_is_finite():
    with pytest.raises(MetricError, match=r"no number of the epochs 5, 10 is finite"):
        best({5: math.nan, 10: math.inf}, True)


def test_the_epochs_that_are_kept_are_every_nth_look_and_the_last():
    of = {"epochs": 17, "grid_every": 5}
    for keep_every, expected in ((0, []), (1, [5, 10, 15, 17]), (2, [10, 17]), (9, [17])):
        assert kept_epochs(smoke.section("train", **of, keep_every=keep_every)) == expected
    assert kept_epochs(smoke.section("train", epochs=4, grid_every=2, keep_every=2)) == [4]
    assert look_epochs(smoke.section("train", **of)) == [0, 5, 10, 15, 17]


def test_what_says_which_weights_are_kept_counts_as_code_of_training():
    assert "mebm/epochs.py" in code.of_stage("train")
    assert "mebm/epochs.py" not in code.of_stage("gaussian")


def test_validation_images_are_the_same_for_all_seeds_and_stratified(digits):
    kept_images, held_out = validation_split(digits, 300)
    assert (len(kept_images), len(held_out)) == (1197, 300)
    assert (kept_images.n_classes, held_out.n_classes) == (10, 10)
    share = torch.bincount(held_out.labels) / torch.bincount(digits.labels)
    assert float((share - 300 / 1497).abs().max()) < 0.01
    parts = [set(digests_of(part.images.numpy()).tolist()) for part in (kept_images, held_out)]
    assert not parts[0] & parts[1]
    assert torch.equal(validation_split(digits, 300)[1].images, held_out.images)
    assert validation_split(digits, 0) == (digits, None)
    copies = ImageSet(digits.images[:1].repeat(4, 1, 1, 1), None)
    with pytest.raises(DataError, match=r"train\.validation_images: 2 of these 4 images cannot be held out"):
        validation_split(copies, 2)


@pytest.fixture(scope="module")
def looks(digits, tmp_path_factory):
    """A folder of looks of a short training, and a feature network beside it."""
    folder = tmp_path_factory.mktemp("looks") / "snapshots"
    data, validation = validation_split(digits, TRAIN.validation_images)

    def keep(trained, epoch):
        parts = (trained.model, trained.buffer.images, TRAIN.model_dump(), data.shape, data.n_classes)
        checkpoint = Checkpoint(*parts, trained.iterations, averages=trained.averages)
        save_checkpoint(folder / f"epoch_{epoch:04d}.pt", checkpoint)

    init = GaussianInit.from_moments(*fit_gaussian(data.images), data.shape, 1e-4)
    trained = train_model(TRAIN, data, init, CPU, validation=validation, on_keep=keep)
    assert [row["epoch"] for row in trained.epochs] == [1, 2, 3]
    torch.manual_seed(0)
    save_network(folder.parent / "features.pt", FeatureClassifier(1, 10, 4, 0.5))
    return folder, trained


def maker(digits, folder, train=TRAIN, **weights) -> Maker:
    section = Weights(**{"choose": "last", "ema_decay": None, "bn_images": 200, "sgld_steps": 1, **weights})
    return Maker(section, train, digits, folder.parent / "features.pt", CPU, 100)


def test_looks_are_those_of_training_at_their_epochs(looks, digits):
    folder, trained = looks
    assert list(kept(folder)) == [1, 2, 3]
    validation = validation_split(digits, 300)[1]
    for row, path in zip(trained.epochs, kept(folder).values(), strict=True):
        checkpoint = load_checkpoint(path)
        assert (checkpoint.iterations, len(checkpoint.replay_buffer)) == (4 * row["epoch"], 80)
        found = accuracy_and_loss(score(checkpoint.model, validation.images, 100).logits, validation.labels)
        assert found == pytest.approx((row["validation_accuracy"], row["validation_loss"]))


@pytest.mark.parametrize("by", ["accuracy", "quality"])
@pytest.mark.parametrize("decay", [None, 0.5])
def test_the_choice_is_by_the_numbers_of_the_weights_that_the_run_then_has(looks, digits, by, decay):
    folder, _ = looks
    trained_on, validation = validation_split(digits, 300)
    of = maker(digits, folder, choose=by, ema_decay=decay)
    expected = {}
    network = FeatureClassifier(1, 10, 4, 0.5)
    network.load_state_dict(torch.load(of.features, weights_only=True)["model_state_dict"])
    for epoch, path in kept(folder).items():
        checkpoint = load_checkpoint(path)
        checkpoint = checkpoint if decay is None else with_average(checkpoint, decay, path)
        checkpoint = settled(checkpoint, of.weights, trained_on)
        if by == "accuracy":
            logits = score(checkpoint.model, validation.images, 100).logits
            expected[epoch] = float((logits.argmax(1) == validation.labels).float().mean())
        else:
            sets = (validation.images, unit_to_bytes(checkpoint.replay_buffer))
            one, two = (extract(network.eval(), images, 100)[:2] for images in sets)
            expected[epoch] = frechet_distance(*one, *two)
    wanted = (max if by == "accuracy" else min)(expected, key=expected.get)
    made = of.make(folder)
    assert made.choice["values"] == pytest.approx({str(epoch): value for epoch, value in expected.items()})
    assert len(set(expected.values())) > 1
    said = {key: made.choice[key] for key in made.choice if key != "values"}
    assert said == {
        **{"by": by, "epoch": wanted, "epochs": 3, "ema_decay": decay},
        **{"n_images": 300, "split": "validation", "test_split_read": False},
    }
    again = load_checkpoint(kept(folder)[wanted])
    again = settled(again if decay is None else with_average(again, decay, folder), of.weights, trained_on)
    assert torch.equal(made.replay_buffer, again.replay_buffer)
    weights = made.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_an_epoch_or_the_last_is_taken_by_its_number(looks, digits, tmp_path):
    folder, trained = looks
    for choose, epoch in ((1, 1), ("last", 3)):
        made = maker(digits, folder, choose=choose, bn_images=0, sgld_steps=0).make(folder)
        assert made.choice == {"by": "epoch" if choose == 1 else "last", "epoch": epoch, "epochs": 3, "ema_decay": None}
        before = load_checkpoint(folder / f"epoch_000{epoch}.pt")
        assert torch.equal(made.model.energy_head.weight, before.model.energy_head.weight)
    save_checkpoint(tmp_path / "a.pt", made)
    assert load_checkpoint(tmp_path / "a.pt").choice == made.choice
    assert torch.equal(made.model.energy_head.weight, trained.model.energy_head.weight)
    assert maker(digits, folder).make(folder / "epoch_0002.pt").choice is None


@pytest.mark.parametrize(
    ("path", "weights", "message"),
    [
        ("", {"choose": 7}, r"snapshots: weights\.choose is 7, but weights are kept after epochs 1, 2, 3"),
        ("epoch_0002.pt", {"choose": "quality"}, r"epoch_0002\.pt: weights\.choose is 'quality', but this is a single"),
        ("..", {"choose": "accuracy"}, r"is a folder that holds no epoch_\*\.pt and no exported model; set"),
        ("", {"choose": "accuracy", "ema_decay": 0.9}, r"the run has no averaged weights of decay 0\.9, but 0\.5"),
    ],
)
def test_what_cannot_be_chosen_is_refused(looks, digits, path, weights, message):
    folder, _ = looks
    with pytest.raises(CheckpointError, match=message):
        maker(digits, folder, **weights).make(folder / path)


def test_without_validation_images_nothing_is_chosen_by_them(looks, digits):
    folder, _ = looks
    with pytest.raises(CheckpointError, match=r"validation_images 300, but here it is 0"):
        maker(digits, folder, TRAIN.model_copy(update={"validation_images": 0}), choose=1).make(folder)
    with pytest.raises(CheckpointError, match=r"weights\.choose is accuracy, but train\.validation_images of the run"):
        maker(digits, folder, TRAIN.model_copy(update={"validation_images": 0}), choose="accuracy").make(folder)


def test_weights_that_give_no_finite_number_are_never_chosen(looks, digits, tmp_path):
    folder, _ = looks
    (tmp_path / "snapshots").mkdir()
    for epoch, path in kept(folder).items():
        checkpoint = load_checkpoint(path)
        if epoch != 2:
            torch.nn.init.constant_(checkpoint.model.class_head.weight, math.nan)
        save_checkpoint(tmp_path / "snapshots" / path.name, checkpoint)
    made = maker(digits, folder, choose="accuracy").make(tmp_path / "snapshots")
    assert made.choice["epoch"] == 2
    assert [made.choice["values"][str(epoch)] for epoch in (1, 3)] == [None, None]
    torch.nn.init.constant_(made.model.class_head.weight, math.nan)
    save_checkpoint(tmp_path / "snapshots" / "epoch_0002.pt", made)
    with pytest.raises(CheckpointError, match=r"snapshots: no number of the epochs 1, 2, 3 is finite, so none can be"):
        maker(digits, folder, choose="accuracy").make(tmp_path / "snapshots")


def broken(path, channels: int, value: float) -> None:
    torch.manual_seed(0)
    network = FeatureClassifier(channels, 10, 4, 0.5)
    torch.nn.init.constant_(network.layers[2][0].weight, value)
    save_network(path, network)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda path: None, DataError, r"features\.pt: no such file; run the stage that makes it"),
        (lambda path: path.write_bytes(b"x"), CheckpointError, r"features\.pt: is not a readable feature network"),
        (
            lambda path: broken(path, 3, 0.1),
            DataError,
            r"features\.pt: is for images of 3 channels, but those of the data set have 1; run the features stage",
        ),
        (lambda path: broken(path, 1, math.nan), DataError, r"features\.pt: gives features that are not finite; run"),
    ],
)
def test_features_that_cannot_be_used_are_named_before_any_weights_are_judged(
    looks, digits, tmp_path, monkeypatch, write, error, message
):
    folder = tmp_path / "snapshots"
    shutil.copytree(looks[0], folder)
    write(tmp_path / "features.pt")
    monkeypatch.setattr("mebm.training.choice.settled", lambda *_: pytest.fail("weights were judged"))
    with pytest.raises(error, match=message):
        maker(digits, folder, choose="quality").make(folder)


def test_one_validation_image_has_no_quality(looks, digits):
    train, unlabelled = TRAIN.model_copy(update={"validation_images": 1}), ImageSet(digits.images, None)
    with pytest.raises(DataError, match=r"train\.validation_images: is 1, but quality is measured on at least 2"):
        maker(unlabelled, looks[0], train, choose="quality").make(looks[0])


def test_features_are_read_once_and_chains_that_are_not_finite_never_chosen(looks, digits, monkeypatch):
    folder, _ = looks
    read, seen = [], []

    def spoiled(checkpoint, *_):
        seen.append(checkpoint.iterations)
        if checkpoint.iterations == 4:  # after the first epoch
            checkpoint.replay_buffer = checkpoint.replay_buffer * math.nan
        return checkpoint

    monkeypatch.setattr("mebm.training.choice.settled", spoiled)
    monkeypatch.setattr("mebm.training.choice.load_network", lambda *args: read.append(args) or load_network(*args))
    made = maker(digits, folder, choose="quality").make(folder)
    assert (len(read), seen[:3]) == (1, [4, 8, 12])
    assert made.choice["values"]["1"] is None
    assert made.choice["epoch"] in (2, 3)


@pytest.mark.parametrize(
    ("kept_ones", "choose", "message"),
    [
        (
            (1, 3),
            "accuracy",
            r"snapshots: lacks epoch_0002\.pt, which train\.keep_every of the run keeps; train",
        ),
        ((3,), "quality", r"snapshots: lacks epoch_0001\.pt, epoch_0002\.pt, which"),
        ((1, 2), "last", r"snapshots: lacks epoch_0003\.pt, which"),
        (
            (1, 2, 3, 4),
            "accuracy",
            r"snapshots: holds epoch_0004\.pt, which train\.keep_every of the run does",
        ),
        ((1, 2, 3, 4), "last", r"snapshots: holds epoch_0004\.pt, which"),
        ((3,), "last", None),
        ((1, 4), 1, None),
    ],
)
def test_a_choice_is_among_all_weights_that_were_kept(looks, digits, tmp_path, kept_ones, choose, message):
    folder = tmp_path / "snapshots"
    folder.mkdir()
    for epoch in kept_ones:
        shutil.copy(looks[0] / f"epoch_{min(epoch, 3):04d}.pt", folder / f"epoch_{epoch:04d}.pt")
    of = maker(digits, folder, choose=choose, bn_images=0, sgld_steps=0)
    if message is None:
        assert of.make(folder).choice["epoch"] == kept_ones[0]
    else:
        with pytest.raises(DataError, match=message):
            of.make(folder)


def test_settings_that_ask_for_nothing_are_not_in_a_file(looks, tmp_path):
    """So that checkpoints of before are those of now, byte for byte."""
    checkpoint = load_checkpoint(kept(looks[0])[1])
    checkpoint.train |= {"keep_every": 0, "validation_images": 0}
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    record = torch.load(tmp_path / "a.pt", weights_only=True)
    assert not {"keep_every", "validation_images"} & set(record["train"])
    assert "choice" not in record
    assert load_checkpoint(tmp_path / "a.pt").train["keep_every"] == 0
