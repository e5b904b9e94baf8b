from itertools import combinations, pairwise

import numpy as np
import pytest

from reelscan.index.change_points import find_moments


def cost(vectors, bounds, price):
    """Squared distances to the means of the stretches, and the price of each: by the book."""
    total = 0.0
    for first, end in pairwise(bounds):
        stretch = vectors[first:end]
        total += ((stretch - stretch.mean(axis=0)) ** 2).sum() + price
    return total


def by_trying_all(vectors, *, penalty, shortest, longest):
    steps = (np.diff(vectors, axis=0) ** 2).sum(axis=1)
    price = penalty * float(np.median(steps)) / 2
    frames, best = len(vectors), None
    for count in range(frames):
        for inner in combinations(range(1, frames), count):
            bounds = [0, *inner, frames]
            if all(shortest <= end - first <= longest for first, end in pairwise(bounds)):
                one = (cost(vectors, bounds, price), bounds)
                best = one if best is None or one < best else best
    return list(pairwise(best[1]))


@pytest.mark.parametrize("seed", range(6))
def test_the_division_is_the_cheapest_of_all(seed):
    draws = np.random.default_rng(seed)
    vectors = draws.normal(size=(3, 4)).repeat([4, 2, 5], axis=0) + draws.normal(size=(11, 4)) / 2
    vectors = vectors.astype(np.float32)
    limits = {"penalty": 1.5, "shortest": 2, "longest": 6}
    assert find_moments(vectors, **limits) == by_trying_all(vectors.astype(np.float64), **limits)


def test_plain_changes_are_found():
    draws = np.random.default_rng(0)
    scenes = draws.normal(size=(4, 32)).repeat([10, 7, 25, 12], axis=0)
    vectors = (scenes + 0.1 * draws.normal(size=scenes.shape)).astype(np.float32)
    found = find_moments(vectors, penalty=8.0, shortest=3)
    assert found == [(0, 10), (10, 17), (17, 42), (42, 54)]


def test_a_picture_that_stands_still_is_one_moment():
    vectors = np.ones((30, 4), np.float32) / 2
    assert find_moments(vectors, penalty=8.0, shortest=2) == [(0, 30)]
    found = find_moments(vectors, penalty=8.0, shortest=2, longest=10)
    assert len(found) == 3 and found[0][0] == 0 and found[-1][1] == 30


@pytest.mark.parametrize("frames", [1, 2, 7])
def test_limits_that_nothing_meets_give_way(frames):
    vectors = np.eye(8, dtype=np.float32)[:frames]
    found = find_moments(vectors, penalty=8.0, shortest=5, longest=6)
    assert found[0][0] == 0 and found[-1][1] == frames
    assert all(end - first <= 6 for first, end in found)
