import math

import pytest

from reelscan.pretrain.loss_guard import highest_loss, remember


def test_nothing_is_a_spike_until_enough_is_known():
    assert highest_loss([1.0] * 4, deviations=3.0, memory_steps=5) == math.inf
    assert highest_loss([1.0] * 5, deviations=None, memory_steps=5) == math.inf


def test_a_spike_is_many_deviations_above_the_mean():
    recent = [1.0, 3.0] * 50
    assert highest_loss(recent, deviations=3.0, memory_steps=100) == pytest.approx(2.0 + 3.0)


def test_losses_that_have_settled_may_jitter():
    assert highest_loss([2.0] * 9, deviations=10.0, memory_steps=9) == pytest.approx(2.4)


def test_only_the_last_losses_are_remembered():
    recent = ()
    for loss in range(9):
        recent = remember(recent, float(loss), memory_steps=3)
    assert recent == (6.0, 7.0, 8.0)
