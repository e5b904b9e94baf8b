import numpy as np
import pytest

from reelscan.retrieval.bootstrap import bootstrap_intervals

RANKS = np.array([1] * 30 + [3] * 20 + [7] * 20 + [40] * 30)


def test_intervals_agree_with_the_binomial_distribution():
    found = bootstrap_intervals(RANKS, range(100), draws=4000)
    for (low, high), share in ((found.recall_at_1, 0.3), (found.recall_at_5, 0.5)):
        spread = 100 * 1.96 * np.sqrt(share * (1 - share) / 100)
        assert low == pytest.approx(100 * share - spread, abs=1.5)
        assert high == pytest.approx(100 * share + spread, abs=1.5)
    assert found.mean_rank[0] < RANKS.mean() < found.mean_rank[1]


def test_every_metric_agrees_with_drawing_one_by_one():
    generator = np.random.default_rng(1)
    owner = np.repeat(np.arange(20), generator.integers(1, 6, 20))
    ranks = generator.integers(1, 15, len(owner))
    found = bootstrap_intervals(ranks, owner, draws=3000)
    drawn = []
    for _ in range(3000):
        videos = generator.integers(0, 20, 20)
        some = np.concatenate([ranks[owner == video] for video in videos])
        recalls = [100 * np.mean(some <= depth) for depth in (1, 5, 10)]
        drawn.append([*recalls, np.median(some), some.mean()])
    expected = np.percentile(drawn, [2.5, 97.5], axis=0)
    measured = np.array([getattr(found, name) for name in found.__dataclass_fields__])
    np.testing.assert_allclose(measured[:3].T, expected[:, :3], atol=2.5)
    np.testing.assert_allclose(measured[3:].T, expected[:, 3:], atol=0.6)


def test_captions_of_one_video_are_drawn_together():
    alone = bootstrap_intervals(RANKS, range(100)).recall_at_1
    in_tens = bootstrap_intervals(RANKS, np.arange(100) // 10).recall_at_1
    assert in_tens[1] - in_tens[0] > 2 * (alone[1] - alone[0])


def test_the_same_ranks_give_the_same_intervals():
    assert bootstrap_intervals(RANKS, range(100)) == bootstrap_intervals(RANKS, range(100))


def test_all_found_is_certain():
    found = bootstrap_intervals(np.ones(5, np.int64), range(5))
    assert found.recall_at_1 == (100.0, 100.0)
    assert found.median_rank == found.mean_rank == (1.0, 1.0)


@pytest.mark.parametrize(("ranks", "videos"), [([], []), ([1, 2], [0])])
def test_what_does_not_fit_is_refused(ranks, videos):
    with pytest.raises(ValueError, match="ranks of"):
        bootstrap_intervals(np.array(ranks), videos)
