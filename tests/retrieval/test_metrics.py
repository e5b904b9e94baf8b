import numpy as np
import pytest

from reelscan.retrieval.metrics import (
    chance_metrics,
    ranks,
    recall_at_k,
    retrieval_metrics,
)


def test_ranks_by_hand():
    similarity = [[0.9, 0.5, 0.1], [0.9, 0.5, 0.1], [0.9, 0.5, 0.1]]
    assert ranks(similarity, [0, 1, {1, 2}]).tolist() == [1, 2, 2]


def test_ties_count_against_the_target_but_targets_do_not_against_each_other():
    assert ranks([[1.0, 1.0, 1.0, 0.0]], [0]).tolist() == [3]
    assert ranks([[1.0, 1.0, 1.0, 0.0]], [[0, 1]]).tolist() == [2]
    assert ranks([[1.0, 1.0, 1.0, 0.0]], [(0, 1, 2)]).tolist() == [1]


def test_a_constant_matrix_finds_nothing():
    metrics = retrieval_metrics(np.zeros((4, 20)), [0, 1, 2, 3])
    assert metrics.recall_at_10 == 0.0
    assert metrics.median_rank == metrics.mean_rank == 20


def test_all_metrics_of_known_ranks():
    similarity = -np.abs(np.arange(20) - np.array([[0], [0], [0], [0]]))
    metrics = retrieval_metrics(similarity, [0, 1, 6, 19])
    assert (metrics.queries, metrics.candidates) == (4, 20)
    assert (metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10) == (25.0, 50.0, 75.0)
    assert metrics.median_rank == 4.5
    assert metrics.mean_rank == (1 + 2 + 7 + 20) / 4


def test_nan_is_an_error_and_not_a_rank():
    with pytest.raises(ValueError, match=r"1 scores are NaN.*query 1 and candidate 0"):
        ranks([[1.0, 0.0], [np.nan, 0.0]], [0, 1])


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        ([0], "shape"),
        ([0, 2], "query 1"),
        ([0, -1], "query 1"),
        ([0, set()], "query 1"),
    ],
)
def test_impossible_targets_are_refused(targets, message):
    with pytest.raises(ValueError, match=message):
        ranks(np.eye(2), targets)


def test_no_queries_are_refused():
    with pytest.raises(ValueError, match="no queries"):
        retrieval_metrics(np.empty((0, 3)), [])


def test_chance_of_one_target_is_exact():
    chance = chance_metrics(target_counts=[1] * 7, candidates=100)
    assert chance.recall_at_1 == pytest.approx(1.0)
    assert chance.recall_at_5 == pytest.approx(5.0)
    assert chance.recall_at_10 == pytest.approx(10.0)
    assert chance.median_rank == 50
    assert chance.mean_rank == 50.5


def test_chance_of_several_targets_agrees_with_drawing():
    counts = [1, 3, 5, 30]
    generator = np.random.default_rng(0)
    drawn = np.concatenate(
        [ranks(generator.random((4000, 30)), [list(range(count))] * 4000) for count in counts]
    )
    chance = chance_metrics(target_counts=counts, candidates=30)
    assert chance.recall_at_1 == pytest.approx(recall_at_k(drawn, 1), abs=1.5)
    assert chance.recall_at_5 == pytest.approx(recall_at_k(drawn, 5), abs=1.5)
    assert chance.mean_rank == pytest.approx(drawn.mean(), abs=0.2)
    assert chance.median_rank == np.median(drawn)


def test_chance_with_fewer_than_ten_candidates():
    chance = chance_metrics(target_counts=[1], candidates=4)
    assert (chance.recall_at_1, chance.recall_at_5) == (25.0, 100.0)


@pytest.mark.parametrize("counts", [[], [0], [5]])
def test_impossible_target_counts_are_refused(counts):
    with pytest.raises(ValueError, match="target_counts"):
        chance_metrics(target_counts=counts, candidates=4)
