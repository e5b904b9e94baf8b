import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reelscan.video.sampling import fps_indices, middle_indices, random_indices, times_at

GOLDEN = Path(__file__).parents[1] / "golden" / "frame_indices.json"
CASES: list[dict[str, Any]] = json.loads(GOLDEN.read_text())


class PublishedDraws(random.Random):
    """Draws as the published code does: samples come from numpy's global generator."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self._permutations = np.random.RandomState(seed)

    def sample(self, population: Any, k: int, *, counts: Any = None) -> list[Any]:
        return [int(one) for one in self._permutations.permutation(len(population))[:k]]


def indices_for(case: dict[str, Any]) -> list[int]:
    count, frames = case["vlen"], case["num_frames"]
    if case["sample"] == "middle":
        return middle_indices(count, frames, fix_start=case.get("fix_start"))
    if case["sample"] == "rand":
        return random_indices(count, frames, PublishedDraws(case["seed"]))
    limit = case["max_num_frames"]
    return fps_indices(
        count,
        input_fps=case["input_fps"],
        output_fps=float(case["sample"].removeprefix("fps")),
        max_frames=limit if limit > 0 else None,
    )


def test_published_indices_are_met_exactly() -> None:
    assert len(CASES) == 625
    wrong = [case for case in CASES if indices_for(case) != case["out"]]
    assert wrong == []


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
