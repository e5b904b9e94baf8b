"""How sure retrieval metrics are: confidence intervals by drawing the videos again.

Captions of one video rise and fall together, so whole videos are drawn, with replacement.
Q queries, V videos, R draws.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reelscan.retrieval.metrics import RECALL_DEPTHS

DRAWS = 1000
CONFIDENCE_PERCENT = 95.0
_QUERIES_AT_ONCE = 4_000_000

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class MetricIntervals:
    """From where to where each metric of one direction lies, with 95 % confidence."""

    recall_at_1: Interval
    recall_at_5: Interval
    recall_at_10: Interval
    median_rank: Interval
    mean_rank: Interval


def bootstrap_intervals(
    ranks: NDArray[np.int64],
    videos: Sequence[int],
    *,
    draws: int = DRAWS,
    seed: int = 0,
) -> MetricIntervals:
    """Percentile intervals from `ranks` [Q], where `videos` says which video a query belongs to.

    Raises ValueError if the numbers disagree or there are no queries.
    """
    owner = np.unique(np.asarray(videos), return_inverse=True)[1]
    if len(ranks) == 0 or len(owner) != len(ranks):
        raise ValueError(f"{len(ranks)} ranks of {len(owner)} queries: give one each, at least one")
    count = int(owner.max()) + 1
    order = np.argsort(ranks, kind="stable")
    drawn = np.random.default_rng(seed)
    measured: list[NDArray[np.float64]] = []
    at_once = max(1, _QUERIES_AT_ONCE // len(ranks))
    for start in range(0, draws, at_once):
        times = drawn.multinomial(count, np.full(count, 1 / count), min(at_once, draws - start))
        measured.append(_metrics(ranks, owner, times, order))
    tail = (100 - CONFIDENCE_PERCENT) / 2
    low, high = np.percentile(np.concatenate(measured), [tail, 100 - tail], axis=0)
    intervals = [(float(one), float(other)) for one, other in zip(low, high, strict=True)]
    return MetricIntervals(
        recall_at_1=intervals[0],
        recall_at_5=intervals[1],
        recall_at_10=intervals[2],
        median_rank=intervals[3],
        mean_rank=intervals[4],
    )


def _metrics(
    ranks: NDArray[np.int64],
    owner: NDArray[np.intp],
    times: NDArray[np.int64],
    order: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Metrics [R, 5] where video v is there `times`[r, v] times; `order` sorts the ranks."""
    queries = times @ np.bincount(owner)
    sums = [np.bincount(owner, weights=ranks <= depth) for depth in RECALL_DEPTHS]
    recalls = [100 * (times @ hits) / queries for hits in sums]
    mean = times @ np.bincount(owner, weights=ranks) / queries
    places = np.cumsum(times[:, owner[order]], axis=1)
    in_order = ranks[order]
    lower, upper = (queries + 1) // 2, (queries + 2) // 2
    median = np.array(
        [
            (in_order[np.searchsorted(row, one)] + in_order[np.searchsorted(row, other)]) / 2
            for row, one, other in zip(places, lower, upper, strict=True)
        ]
    )
    return np.stack([*recalls, median, mean], axis=1)
