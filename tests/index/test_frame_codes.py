import numpy as np
import pytest

from reelscan.index.frame_codes import best_frame, pack_frames


def frames(seed, *, count=8, width=96):
    draws = np.random.default_rng(seed)
    vectors = draws.normal(size=width) + draws.normal(size=(count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("width", [96, 100])
def test_the_frame_that_is_looked_for_is_found(width):
    for seed in range(10):
        vectors = frames(seed, width=width)
        codes = pack_frames(vectors)
        assert len(codes) == 8 * (4 + -(-width // 8))
        for frame in range(8):
            assert best_frame(codes, vectors[frame] - vectors.mean(axis=0)) == (frame, 8)


def test_most_queries_find_the_frame_of_the_exact_product_or_one_as_good():
    lost = []
    for seed in range(200):
        vectors = frames(seed)
        query = frames(seed + 1000, count=2)[0] + 0.3 * vectors[seed % 8]
        exact = vectors @ query
        found, _ = best_frame(pack_frames(vectors), query)
        lost.append((exact.max() - exact[found]) / np.ptp(exact))
    # A frame drawn at random loses half of the range on average.
    assert np.mean(lost) < 0.1


def test_one_frame_needs_no_code():
    assert pack_frames(frames(0, count=1)) is None
