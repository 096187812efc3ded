"""Averaged weights: what they are, that training does not feel them, and the checkpoint made of them."""

import pytest
import smoke
import torch

from mebm.data.images import bytes_to_unit
from mebm.errors import CheckpointError
from mebm.settings.schema import Weights
from mebm.training.averages import Averages, settled, with_average
from mebm.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from mebm.training.loop import step, train_model
from mebm.training.run import Run

CPU = torch.device("cpu")


def settings(**changes):
    base = {"batch_size": 16, "label_batch_size": 200, "buffer_size": 40, "pyx_weight": 1.0, "epochs": 2}
    return smoke.section("train", **{**base, **changes})


@pytest.fixture
def checkpoint(digits, init) -> Checkpoint:
    """A short training with an average."""
    train = settings(ema_decays=[0.5])
    made = train_model(train, digits, init, CPU)
    parts = (made.model, made.buffer.images, train.model_dump(), digits.shape, digits.n_classes)
    return Checkpoint(*parts, made.iterations, averages=made.averages)


def test_an_average_is_the_formula(digits):
    model = torch.nn.Linear(1, 1, bias=False)
    averages = Averages(model, [0.3])
    expected = float(model.weight.detach())
    for iteration, value in enumerate((1.0, 2.0, 5.0, 7.0)):
        with torch.no_grad():
            model.weight.fill_(value)
        averages.update(model, iteration)
        decay = min(0.3, (1 + iteration) / (10 + iteration))
        expected = decay * expected + (1 - decay) * value
        assert float(averages.of[0.3]["weight"]) == pytest.approx(expected, rel=1e-6)


def test_averages_change_no_number_of_training(digits, init):
    plain, averaged = (train_model(settings(ema_decays=d), digits, init, CPU) for d in ([], [0.5, 0.999]))
    for one, two in zip(plain.model.state_dict().values(), averaged.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(plain.buffer.images, averaged.buffer.images)
    assert set(averaged.averages) == {0.5, 0.999}
    last = averaged.model.energy_head.weight
    far, near = ((averaged.averages[d]["energy_head.weight"] - last).norm() for d in (0.999, 0.5))
    assert 0 < near < far


def test_averages_go_on_from_a_state_in_the_same_bytes(digits, init):
    whole, first, second = (Run(settings(ema_decays=[0.9]), digits, init, CPU) for _ in range(3))
    for _ in range(5):
        step(whole)
    for _ in range(2):
        step(first)
    second.load(first.state())
    for _ in range(3):
        step(second)
    for name, value in whole.averages.of[0.9].items():
        assert torch.equal(value, second.averages.of[0.9][name]), name


def test_a_checkpoint_keeps_its_averages(checkpoint, tmp_path):
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    loaded = load_checkpoint(tmp_path / "a.pt")
    for name, value in checkpoint.averages[0.5].items():
        assert torch.equal(loaded.averages[0.5][name], value), name
    chosen = with_average(loaded, 0.5, "a.pt")
    assert torch.equal(chosen.model.energy_head.weight, checkpoint.averages[0.5]["energy_head.weight"])
    with pytest.raises(CheckpointError, match=r"a\.pt: the run has no averaged weights of decay 0\.9, but 0\.5; set"):
        with_average(loaded, 0.9, "a.pt")


def test_averages_that_do_not_fit_are_refused(checkpoint, tmp_path):
    del checkpoint.averages[0.5]["energy_head.weight"]
    save_checkpoint(tmp_path / "a.pt", checkpoint)
    with pytest.raises(CheckpointError, match=r"a\.pt: its weights do not fit its own settings"):
        load_checkpoint(tmp_path / "a.pt")


def test_statistics_are_those_of_training_images(checkpoint, digits):
    """The first layer's: the mean of its input over all images, and the mean of the passes' variances."""
    made = settled(checkpoint, Weights(choose="last", ema_decay=None, bn_images=len(digits), sgld_steps=0), digits)
    layer = made.model.backbone.layer1[0].bn1
    with torch.no_grad():
        inputs = made.model.backbone.conv1(bytes_to_unit(digits.images))
    # the last pass is smaller and counts as much as the others
    assert torch.allclose(layer.running_mean, inputs.mean((0, 2, 3)), atol=0.02)
    assert torch.allclose(layer.running_var, inputs.var((0, 2, 3)), rtol=0.1, atol=0.02)
    assert layer.momentum == 0.9
    assert not made.model.training


def test_chains_move_on_the_energy_of_the_weights(checkpoint, digits):
    before = checkpoint.replay_buffer.clone()
    statistics = {name: value.clone() for name, value in checkpoint.model.named_buffers()}
    with torch.no_grad():
        start = checkpoint.model.train().energy(before).mean()
    for (_, value), kept in zip(checkpoint.model.named_buffers(), statistics.values(), strict=True):
        value.copy_(kept)
    made = settled(checkpoint, Weights(choose="last", ema_decay=None, bn_images=0, sgld_steps=5), digits)
    for name, value in made.model.named_buffers():
        assert torch.equal(value, statistics[name]), name
    assert not torch.equal(made.replay_buffer, before)
    assert float(made.replay_buffer.abs().max()) <= 1
    with torch.no_grad():
        assert made.model.train().energy(made.replay_buffer).mean() < start


def test_no_steps_and_no_images_leave_all_as_it_was(checkpoint, digits):
    before = checkpoint.replay_buffer.clone()
    state = {name: value.clone() for name, value in checkpoint.model.state_dict().items()}
    made = settled(checkpoint, Weights(choose="last", ema_decay=None, bn_images=0, sgld_steps=0), digits)
    assert torch.equal(made.replay_buffer, before)
    assert all(torch.equal(value, state[name]) for name, value in made.model.state_dict().items())
