"""Exact search: the vectors of highest inner product, by a matrix product a block.

N vectors, E embedding width, Q queries, K hits wanted.
"""

import numpy as np
from numpy.typing import NDArray


class BestSoFar:
    """The K best of all vectors seen so far, for each query."""

    def __init__(self, queries: NDArray[np.float32], *, top: int) -> None:
        self.queries = queries
        """[Q, E]"""
        self.top = top
        self.scores = np.empty((len(queries), 0), np.float32)
        """[Q, up to K], best first; equal ones in order of id."""
        self.segment_ids = np.empty((len(queries), 0), np.int64)
        """[Q, up to K]"""

    def see(self, vectors: NDArray[np.float32], segment_ids: NDArray[np.int64]) -> None:
        """Take more vectors [N, E] into account."""
        scores = self.queries @ vectors.T
        places = _best_places(scores, self.top)
        scores = np.take_along_axis(scores, places, axis=1)
        self.merge(scores, segment_ids[places])

    def merge(self, scores: NDArray[np.float32], segment_ids: NDArray[np.int64]) -> None:
        """Take hits [Q, any] found elsewhere into account; those with id -1 are none."""
        if self.scores.shape[1]:
            scores = np.concatenate([self.scores, scores], axis=1)
            segment_ids = np.concatenate([self.segment_ids, segment_ids], axis=1)
        scores = np.where(segment_ids < 0, -np.inf, scores)
        order = np.lexsort((segment_ids, -scores), axis=1)[:, : self.top]
        self.scores = np.take_along_axis(scores, order, axis=1)
        self.segment_ids = np.take_along_axis(segment_ids, order, axis=1)


def _best_places(scores: NDArray[np.float32], top: int) -> NDArray[np.int64]:
    """[Q, up to K]: where each row's best are; of equal ones at the edge, the earlier."""
    count = scores.shape[1]
    if count <= top:
        return np.broadcast_to(np.arange(count), scores.shape)
    places = np.argpartition(-scores, top - 1, axis=1)[:, :top]
    edge = np.take_along_axis(scores, places, axis=1).min(axis=1, keepdims=True)
    if ((scores >= edge).sum(axis=1) > top).any():
        return np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return places
