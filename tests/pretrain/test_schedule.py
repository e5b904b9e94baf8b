import pytest

from reelscan.pretrain.schedule import learning_rate_factor


def test_after_the_end_the_rate_stays_at_the_floor():
    assert learning_rate_factor(500, total_steps=100, warmup_steps=0, floor=0.01) == 0.01


def test_a_warmup_longer_than_the_run_is_refused():
    with pytest.raises(ValueError, match="shorten the warm-up"):
        learning_rate_factor(0, total_steps=10, warmup_steps=11, floor=0.0)


def test_a_floor_above_one_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        learning_rate_factor(0, total_steps=10, warmup_steps=1, floor=1.5)
