import pytest
import torch

from reelscan.models.drop_path import DropPath


def test_draws_decide_and_survivors_are_scaled():
    drop = DropPath(0.25, draw=lambda _clips: torch.tensor([0.0, 0.2499, 0.25, 0.99]))
    dropped = drop(torch.ones(4, 2, 3))
    expected = torch.tensor([0.0, 0.0, 4 / 3, 4 / 3]).view(4, 1, 1).expand(4, 2, 3)
    torch.testing.assert_close(dropped, expected)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_drawn_where_nothing_can_be_dropped(rate, training):
    def draw(_clips):
        raise AssertionError("drew")

    hidden = torch.randn(2, 3, 4)
    assert DropPath(rate, draw=draw).train(training)(hidden) is hidden


def test_by_default_the_global_generator_draws():
    drop, hidden = DropPath(0.5), torch.ones(64, 1, 1)
    torch.manual_seed(3)
    first = drop(hidden)
    torch.manual_seed(3)
    assert torch.equal(first, drop(hidden))
    assert set(first.flatten().tolist()) == {0.0, 2.0}


def test_dtype_is_kept():
    assert DropPath(0.5)(torch.ones(8, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_rates_out_of_range(rate):
    with pytest.raises(ValueError, match="drop rate"):
        DropPath(rate)
