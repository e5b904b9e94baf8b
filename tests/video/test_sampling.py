import pytest
import torch

from reelscan.video.sampling import middle_indices, random_indices, times_at


@pytest.mark.parametrize(
    ("count", "varies"), [(1, False), (3, False), (8, False), (9, True), (15, True), (100, True)]
)
def test_random_indices_ascend_and_follow_the_seed(count: int, varies: bool) -> None:
    def draw(seed: int) -> list[int]:
        return random_indices(count, 8, torch.Generator().manual_seed(seed))

    assert draw(1) == draw(1)
    assert all(0 <= index < count for index in draw(1))
    assert draw(1) == sorted(draw(1))
    assert (len({tuple(draw(seed)) for seed in range(20)}) > 1) == varies


def test_times_are_middles_of_equal_parts() -> None:
    assert times_at(10.0, 12.0, 4) == [10.25, 10.75, 11.25, 11.75]


@pytest.mark.parametrize("bad", [(0, 4), (4, 0), (-1, 4)])
def test_counts_must_be_positive(bad: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="give a number above 0"):
        middle_indices(*bad)


def test_an_empty_time_range_is_refused() -> None:
    with pytest.raises(ValueError, match="duration is 0"):
        times_at(3.0, 3.0, 4)
