"""Making a FAISS index from the stored vectors, or bringing an older one up to date.

Lists and codes are learnt from a sample. How many lists a query looks into, and how many candidates
are scored again, is measured: pseudo-queries drawn from the vectors are answered exactly in the
pass that adds the vectors, and the cheapest setting that finds what the settings ask for is kept.
N vectors, E embedding width, Q queries.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from reelscan.index.exact_search import BestSoFar
from reelscan.index.faiss_selection import search_parameters
from reelscan.index.gpu_lists import add_assigned, centre_finder, make_room, nearest_lists
from reelscan.index.index_settings import IndexKind, IndexSettings
from reelscan.index.stored_vectors import StoredVectors, VectorRows

OnProgress = Callable[[str, int, int], None]
"""Receives what is being done, vectors (or rounds) done, and their total."""

_ROUNDS = 10
_QUERIES = 200
_DEPTHS = (10, 128)
_QUERY_SPREAD = 0.6
_CANDIDATES = (2, 4, 8, 16, 32)
_NEARLY = 0.003
_LISTS_ALL_TRIED = 512
_SEED = 20


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How far a search goes, and what it then found of the exact answers."""

    lists_looked_into: int
    candidates: int
    recall_at_10: float
    recall_at_128: float


EXACT = Reach(lists_looked_into=0, candidates=1, recall_at_10=1.0, recall_at_128=1.0)


class Cancelled(Exception):  # noqa: N818 - not an error: somebody asked to stop
    """Building was asked to stop; nothing was changed."""


def build_index(
    vectors: StoredVectors,
    segment_ids: NDArray[np.int64],
    kind: IndexKind,
    *,
    settings: IndexSettings,
    on_progress: OnProgress,
) -> tuple[Any, Reach]:
    """A FAISS index of these segments; `on_progress` may raise `Cancelled`."""
    index = faiss.index_factory(vectors.embed_dim, kind.factory, faiss.METRIC_INNER_PRODUCT)
    if kind.lists == 0:
        add_rows(index, vectors, segment_ids, on_progress=on_progress)
        return index, EXACT
    sample = _sample(vectors, segment_ids, kind.can_learn_from)
    finder = centre_finder(vectors.embed_dim)
    _train(index, finder, sample, on_progress)
    best = BestSoFar(_pseudo_queries(sample), top=max(_DEPTHS))
    del sample
    _fill_lists(index, finder, vectors, segment_ids, best=best, on_progress=on_progress)
    on_progress("measuring recall", 0, 1)
    return index, find_reach(index, best, kind=kind, settings=settings)


def add_rows(
    index: Any,
    vectors: StoredVectors,
    segment_ids: NDArray[np.int64],
    *,
    on_progress: OnProgress,
) -> None:
    """Add these segments, which are all there are between the first and the last of them."""
    for done, rows in _blocks(vectors, segment_ids):
        on_progress("adding vectors", done, len(segment_ids))
        index.add_with_ids(rows.vectors, rows.segment_ids)


def _fill_lists(
    index: Any,
    finder: Any,
    vectors: StoredVectors,
    segment_ids: NDArray[np.int64],
    *,
    best: BestSoFar,
    on_progress: OnProgress,
) -> None:
    """Add all segments; each list gets its room at once, for growing would take it three times."""
    lists = np.empty(len(segment_ids), np.int64)
    for done, rows in _blocks(vectors, segment_ids):
        on_progress("finding lists", done, len(segment_ids))
        lists[done : done + len(rows.segment_ids)] = nearest_lists(finder, rows.vectors)
        best.see(rows.vectors, rows.segment_ids)
    make_room(index, np.bincount(lists, minlength=index.nlist))
    for done, rows in _blocks(vectors, segment_ids):
        on_progress("adding vectors", done, len(segment_ids))
        chosen = lists[done : done + len(rows.segment_ids)]
        add_assigned(index, rows.vectors, rows.segment_ids, chosen)


def _blocks(
    vectors: StoredVectors, segment_ids: NDArray[np.int64]
) -> Iterator[tuple[int, VectorRows]]:
    """How many came before, and the next some thousand vectors."""
    done = 0
    if len(segment_ids):
        for rows in vectors.stream(after=int(segment_ids[0]) - 1, up_to=int(segment_ids[-1])):
            yield done, rows
            done += len(rows.segment_ids)


def find_reach(index: Any, exact: BestSoFar, *, kind: IndexKind, settings: IndexSettings) -> Reach:
    """The cheapest reach with the recall asked for, or else with nearly that of the widest."""
    candidates = 1 if kind.exact_scores else _enough_candidates(index, exact, kind, settings)
    measured: list[Reach] = []
    for looked_into in _lists_to_try(kind.lists):
        measured.append(_measure(index, exact, looked_into, candidates))
        if _finds(measured[-1], settings.recall_at_10, settings.recall_at_128):
            return measured[-1]
    most_10, most_128 = measured[-1].recall_at_10 - _NEARLY, measured[-1].recall_at_128 - _NEARLY
    return next(one for one in measured if _finds(one, most_10, most_128))


def _finds(reach: Reach, recall_at_10: float, recall_at_128: float) -> bool:
    return reach.recall_at_10 >= recall_at_10 and reach.recall_at_128 >= recall_at_128


def _enough_candidates(
    index: Any, exact: BestSoFar, kind: IndexKind, settings: IndexSettings
) -> int:
    """So many for each hit that little is lost to the codes, looking into a fair part of lists."""
    tried = _lists_to_try(kind.lists)
    looked_into = tried[len(tried) * 3 // 4]
    most = _measure(index, exact, looked_into, _CANDIDATES[-1])
    wanted_10 = min(settings.recall_at_10, most.recall_at_10 - _NEARLY)
    wanted_128 = min(settings.recall_at_128, most.recall_at_128 - _NEARLY)
    for candidates in _CANDIDATES[:-1]:
        if _finds(_measure(index, exact, looked_into, candidates), wanted_10, wanted_128):
            return candidates
    return _CANDIDATES[-1]


def _lists_to_try(lists: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12 and so on, up to all of some hundreds, or an eighth of more."""
    most = max(min(lists, _LISTS_ALL_TRIED), lists // 8)
    steps = {min(most, round(base * 2**power)) for power in range(20) for base in (1, 1.5)}
    return sorted(steps)


def _measure(index: Any, exact: BestSoFar, looked_into: int, candidates: int) -> Reach:
    # A candidate is scored again exactly, so it is found if it is a candidate at all.
    parameters = search_parameters(lists=looked_into)
    recalls = []
    for depth in _DEPTHS:
        wanted = exact.segment_ids[:, :depth]
        _, found = index.search(exact.queries, depth * candidates, params=parameters)
        hits = sum(np.isin(a, b).sum() for a, b in zip(wanted, found, strict=True))
        recalls.append(float(hits / wanted.size))
    return Reach(
        lists_looked_into=looked_into,
        candidates=candidates,
        recall_at_10=recalls[0],
        recall_at_128=recalls[1],
    )


def _sample(
    vectors: StoredVectors, segment_ids: NDArray[np.int64], count: int
) -> NDArray[np.float32]:
    if len(segment_ids) > count:
        rng = np.random.default_rng(_SEED)
        segment_ids = np.sort(rng.choice(segment_ids, size=count, replace=False))
    return vectors.read(segment_ids).vectors


def _pseudo_queries(sample: NDArray[np.float32]) -> NDArray[np.float32]:
    """[Q, E]: stored vectors moved by differences of others, for no query equals its answer.

    The difference of two vectors varies as the collection does, so nothing is assumed about it.
    """
    rng = np.random.default_rng(_SEED)
    one, two, three = (sample[rng.integers(len(sample), size=_QUERIES)] for _ in range(3))
    return np.asarray(one + _QUERY_SPREAD * (two - three), np.float32)


def _train(index: Any, finder: Any, sample: NDArray[np.float32], on_progress: OnProgress) -> None:
    """Learn the lists' centres round by round, so that it can be stopped, then the codes."""
    clustering = faiss.Clustering(index.d, index.nlist)
    clustering.niter = 1
    clustering.spherical = True
    clustering.seed = _SEED
    clustering.max_points_per_centroid = len(sample) // index.nlist + 1
    clustering.min_points_per_centroid = 1
    for done in range(_ROUNDS):
        on_progress("learning lists", done, _ROUNDS)
        finder.reset()
        clustering.train(sample, finder)
    centres = faiss.vector_to_array(clustering.centroids).reshape(index.nlist, index.d)
    index.quantizer.add(centres)
    # The centres are in place, so only the codes are left to learn.
    on_progress("learning codes", 0, 1)
    if isinstance(index, faiss.IndexIVFPQ):
        index.pq.cp.niter = _ROUNDS
        index.pq.cp.max_points_per_centroid = 100
        index.pq.cp.min_points_per_centroid = 1
    index.train(sample)
