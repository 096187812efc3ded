"""Draws, restarts and writes of the replay buffer."""

import pytest
import torch

from mebm.method.buffer import ReplayBuffer, last_of


@pytest.fixture
def buffer() -> ReplayBuffer:
    return ReplayBuffer(torch.arange(10.0).view(10, 1, 1, 1).expand(10, 1, 2, 2).clone() / 10)


def draw(buffer, reinit_freq, batch_size=200):
    indices, restarts = buffer.pick(batch_size, reinit_freq, torch.Generator().manual_seed(0))
    return indices, buffer.starts(indices, restarts, torch.full((batch_size, 1, 2, 2), -1.0))


def write(buffer, indices: list[int], x):
    indices = torch.tensor(indices)
    buffer.write(indices, last_of(indices), x)


def test_without_restarts_chains_go_on(buffer):
    indices, x = draw(buffer, 0.0)
    assert torch.equal(x, buffer.images[indices])
    assert set(indices.tolist()) == set(range(10))


def test_with_certain_restart_all_are_fresh(buffer):
    _, x = draw(buffer, 1.0)
    assert bool((x == -1).all())


def test_restarts_have_their_chance(buffer):
    _, x = draw(buffer, 0.05, batch_size=20_000)
    assert float((x[:, 0, 0, 0] == -1).float().mean()) == pytest.approx(0.05, abs=0.006)


def test_a_draw_is_a_copy(buffer):
    before = buffer.images.clone()
    _, x = draw(buffer, 0.5)
    x += 1
    assert torch.equal(buffer.images, before)


def test_only_drawn_slots_change(buffer):
    before = buffer.images.clone()
    write(buffer, [2, 5], torch.full((2, 1, 2, 2), 0.5))
    changed = (buffer.images != before).flatten(1).any(1)
    assert changed.nonzero().squeeze(1).tolist() == [2] + ([5] if before[5, 0, 0, 0] != 0.5 else [])
    assert bool((buffer.images[[2, 5]] == 0.5).all())


def test_of_an_index_drawn_twice_the_last_wins(buffer):
    x = torch.arange(4.0).view(4, 1, 1, 1).expand(4, 1, 2, 2)
    write(buffer, [3, 7, 3, 3], x)
    assert float(buffer.images[3, 0, 0, 0]) == 3
    assert float(buffer.images[7, 0, 0, 0]) == 1
