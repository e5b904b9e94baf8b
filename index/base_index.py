"""Searching the FAISS file: how far to go, ids to leave out or to keep to, scores made exact.

Q queries, E embedding width, K hits wanted, N vectors.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelscan.index.derived_file import IndexStamp
from reelscan.index.exact_search import BestSoFar
from reelscan.index.faiss_selection import (
    Allowed,
    Selection,
    all_but,
    search_parameters,
)
from reelscan.index.stored_vectors import StoredVectors

_SCAN_ROWS = 1000
"""So few vectors are read from the database and compared: 4 ms, where testing the ids of all lists
of a million takes as long."""
_WIDEN = 4


@dataclass(frozen=True, kw_only=True)
class BaseIndex:
    """An open FAISS index over the segments up to `stamp.last_segment`."""

    faiss_index: Any
    stamp: IndexStamp
    vectors: StoredVectors

    def search(
        self,
        queries: NDArray[np.float32],
        *,
        top: int,
        gone: NDArray[np.int64],
        among: Allowed | None,
    ) -> BestSoFar:
        """The K best for `queries` [Q, E], without the ids in `gone`, or only those in `among`.

        `gone` are ascending ids of the file; `among` holds none of them.
        """
        best = BestSoFar(queries, top=top)
        if among is None:
            alive = self.stamp.vectors - len(gone)
            best.merge(*self._find(queries, top, alive, all_but(gone)))
            return best
        passing = among.count_up_to(self.stamp.last_segment)
        if passing <= _SCAN_ROWS and self.stamp.lists:
            rows = self.vectors.read(among.segment_ids[:passing])
            best.see(rows.vectors, rows.segment_ids)
        else:
            best.merge(*self._find(queries, top, passing, among.selection))
        return best

    def _find(
        self, queries: NDArray[np.float32], top: int, allowed: int, selection: Selection | None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and ids [Q, up to K] among the `allowed` many that the selection lets pass."""
        wanted = min(top * self.stamp.candidates, allowed)
        if wanted == 0:
            nothing = (len(queries), 0)
            return np.empty(nothing, np.float32), np.empty(nothing, np.int64)
        looked_into = self._lists_for(allowed)
        while True:
            scores, ids = self.faiss_index.search(
                queries,
                wanted,
                params=search_parameters(lists=looked_into, selection=selection),
            )
            if looked_into >= self.stamp.lists or (ids[:, -1] >= 0).all():
                break
            # What passes lies elsewhere than the query's neighbours.
            looked_into = min(self.stamp.lists, looked_into * _WIDEN)
        if not self.stamp.exact_scores:
            scores, ids = self._score_again(queries, ids)
        return scores, ids

    def _lists_for(self, allowed: int) -> int:
        """More lists the fewer pass, so that as many are compared as without a filter."""
        passing = allowed / max(self.stamp.vectors, 1)
        return min(self.stamp.lists, round(self.stamp.lists_looked_into / passing))

    def _score_again(
        self, queries: NDArray[np.float32], ids: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        scores = np.full(ids.shape, -np.inf, np.float32)
        kept = np.full(ids.shape, -1, np.int64)
        # One query at a time: their candidates together may be more than memory holds.
        for row, query in enumerate(queries):
            rows = self.vectors.read(ids[row][ids[row] >= 0])
            # Ids that were deleted in the meantime have no vector any more.
            found = len(rows.segment_ids)
            scores[row, :found] = rows.vectors @ query
            kept[row, :found] = rows.segment_ids
        return scores, kept
