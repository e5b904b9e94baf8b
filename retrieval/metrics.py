"""Retrieval metrics from a similarity matrix.

The tie rule is pessimistic: a candidate that is no target but scores as high as the best target
counts as ranked before it, so equal scores never flatter. With several targets a query's rank is
that of its best one. Ranks start at 1, recalls are percentages.
Q queries, V candidates.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

RECALL_DEPTHS = (1, 5, 10)


@dataclass(frozen=True, kw_only=True)
class RetrievalMetrics:
    """How well queries find their targets."""

    queries: int
    candidates: int
    recall_at_1: float
    """Percent of queries with a target ranked first."""
    recall_at_5: float
    """Percent of queries with a target among the first 5."""
    recall_at_10: float
    """Percent of queries with a target among the first 10."""
    median_rank: float
    mean_rank: float


def ranks(similarity: ArrayLike, targets: Sequence[int | Collection[int]]) -> NDArray[np.int64]:
    """The rank [Q] of each query's best target, pessimistic about ties.

    Args:
        similarity: [Q, V], higher is better; -inf is allowed, NaN is not.
        targets: for each query the column or columns that answer it.

    Raises:
        ValueError: shapes disagree, a score is NaN, a query has no target or one out of range.
    """
    scores = np.asarray(similarity)
    if scores.ndim != 2 or len(scores) != len(targets):
        raise ValueError(
            f"similarity has the shape {scores.shape} for {len(targets)} targets; "
            "it should be [queries, candidates] with one entry of targets a query"
        )
    if np.isnan(scores).any():
        row, column = np.argwhere(np.isnan(scores))[0]
        raise ValueError(
            f"{int(np.isnan(scores).sum())} scores are NaN, the first of query {row} and "
            f"candidate {column}: the encoder is broken, so nothing can be ranked"
        )
    found = np.empty(len(scores), np.int64)
    for query, (row_scores, own) in enumerate(zip(scores, targets, strict=True)):
        columns = _columns(own, candidates=scores.shape[1], query=query)
        not_before = row_scores >= row_scores[columns].max()
        not_before[columns] = False
        found[query] = 1 + np.count_nonzero(not_before)
    return found


def recall_at_k(ranks: NDArray[np.int64], k: int) -> float:
    """Percent of `ranks` that are at most `k`."""
    return 100.0 * float(np.mean(ranks <= k))


def retrieval_metrics(
    similarity: ArrayLike, targets: Sequence[int | Collection[int]]
) -> RetrievalMetrics:
    """All metrics of one direction; raises as `ranks` does, and when there is no query."""
    scores = np.asarray(similarity)
    return metrics_of_ranks(ranks(scores, targets), candidates=scores.shape[1])


def metrics_of_ranks(found: NDArray[np.int64], *, candidates: int) -> RetrievalMetrics:
    """All metrics of one direction from ranks [Q] among so many candidates."""
    if len(found) == 0:
        raise ValueError("there are no queries, so there is nothing to measure")
    recall_at_1, recall_at_5, recall_at_10 = (recall_at_k(found, k) for k in RECALL_DEPTHS)
    return RetrievalMetrics(
        queries=len(found),
        candidates=candidates,
        recall_at_1=recall_at_1,
        recall_at_5=recall_at_5,
        recall_at_10=recall_at_10,
        median_rank=float(np.median(found)),
        mean_rank=float(found.mean()),
    )


def chance_metrics(*, target_counts: Sequence[int], candidates: int) -> RetrievalMetrics:
    """What random scores reach on average; `target_counts` says how many targets a query has.

    The median is that of the mixture of the queries' rank distributions.
    """
    counts = np.asarray(target_counts)
    if len(counts) == 0 or counts.min() < 1 or counts.max() > candidates:
        raise ValueError(
            f"target_counts are {sorted(set(counts.tolist()))} of {candidates} candidates; "
            "every query needs at least one target and not more than there are candidates"
        )
    # within[k] = chance that the best target is among the first k; each further place is missed
    # with the share of non-targets among the candidates that remain.
    within = np.zeros(candidates + 1)
    for count, queries in zip(*np.unique(counts, return_counts=True), strict=True):
        remaining = candidates - np.arange(candidates)
        missed = np.cumprod(np.clip((remaining - count) / remaining, 0.0, 1.0))
        within[1:] += (1.0 - missed) * queries / len(counts)
    recall_at_1, recall_at_5, recall_at_10 = (
        100.0 * float(within[min(k, candidates)]) for k in RECALL_DEPTHS
    )
    return RetrievalMetrics(
        queries=len(counts),
        candidates=candidates,
        recall_at_1=recall_at_1,
        recall_at_5=recall_at_5,
        recall_at_10=recall_at_10,
        median_rank=float(np.searchsorted(within, 0.5 - 1e-12)),
        mean_rank=float(np.mean((candidates + 1) / (counts + 1))),
    )


def _columns(own: int | Collection[int], *, candidates: int, query: int) -> NDArray[np.int64]:
    columns = np.atleast_1d(np.array(own if isinstance(own, (int, np.integer)) else list(own)))
    if len(columns) == 0 or columns.min() < 0 or columns.max() >= candidates:
        raise ValueError(
            f"query {query} has the targets {columns.tolist()}; "
            f"give at least one, each from 0 to {candidates - 1}"
        )
    return columns.astype(np.int64)
