"""Making the FAISS file of a collection again: in the background, whole or not at all.

Everything is read in one snapshot while others go on writing. The finished file takes over when its
stamp is committed; a kill before that leaves the old file in force, and the new one is removed by
the next compaction. Rows that changed meanwhile are newer than the stamp, so nothing is missed.
"""

import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from reelscan.index.derived_file import (
    IndexStamp,
    UnusableIndexFile,
    open_index,
    read_stamp,
    remove_other_files,
    write_index_file,
    write_stamp,
)
from reelscan.index.index_build import OnProgress, Reach, add_rows, build_index
from reelscan.index.index_settings import IndexKind, IndexSettings, choose_kind
from reelscan.index.stored_vectors import StoredVectors

_GROWTH = 2.0
"""Lists and codes are learnt again once there are so many times more vectors, or fewer."""


@dataclass(frozen=True, kw_only=True)
class Built:
    """An index of all vectors of one moment; its file is not written yet."""

    faiss_index: Any
    stamp: IndexStamp


def compact(
    folder: Path,
    vectors: StoredVectors,
    *,
    settings: IndexSettings,
    anew: bool,
    on_progress: OnProgress,
) -> IndexStamp:
    """Write an index file of all vectors and make it the one that counts.

    The writer's lock must be held. `anew` learns lists and codes again.

    Raises:
        CollectionError: the file could not be written; the collection is as before.
        ValueError: no index fits into the memory that the settings allow.
        Cancelled: `on_progress` raised it.
    """
    database = vectors.database
    recorded = read_stamp(database)
    remove_other_files(folder, keep=None if recorded is None else recorded[0].file)
    snapshot = database.another_reader()
    try:
        built = make_index(
            folder, vectors.over(snapshot), settings=settings, anew=anew, on_progress=on_progress
        )
    finally:
        snapshot.close()
    path = folder / built.stamp.file
    on_progress("writing the index", 0, 1)
    checksums = write_index_file(path, built.faiss_index)
    stamp = replace(built.stamp, size_bytes=path.stat().st_size)
    write_stamp(database, stamp, checksums)
    remove_other_files(folder, keep=stamp.file)
    return stamp


def make_index(
    folder: Path,
    vectors: StoredVectors,
    *,
    settings: IndexSettings,
    anew: bool,
    on_progress: OnProgress,
) -> Built:
    """An index in memory of all vectors as they are now, from the file in force where it can be."""
    with vectors.database.snapshot():
        generation = int(vectors.database.rows("SELECT generation FROM state")[0][0])
        segment_ids = vectors.segment_ids()
        kind = choose_kind(len(segment_ids), embed_dim=vectors.embed_dim, settings=settings)
        reusable = None if anew else _reusable(folder, vectors, kind, len(segment_ids))
        if reusable is not None:
            index, old = reusable
            _bring_up_to_date(index, vectors, old, segment_ids, on_progress)
            reach = Reach(
                lists_looked_into=old.lists_looked_into,
                candidates=old.candidates,
                recall_at_10=old.recall_at_10,
                recall_at_128=old.recall_at_128,
            )
            lists, trained_on = old.lists, old.trained_on
        else:
            index, reach = build_index(
                vectors, segment_ids, kind, settings=settings, on_progress=on_progress
            )
            lists, trained_on = kind.lists, len(segment_ids)
    assert index.ntotal == len(segment_ids), f"{index.ntotal} of {len(segment_ids)} were indexed"
    return Built(
        faiss_index=index,
        stamp=IndexStamp(
            file=f"vectors-{generation:09d}-{uuid.uuid4().hex[:8]}.faiss",
            size_bytes=0,
            generation=generation,
            last_segment=int(segment_ids[-1]) if len(segment_ids) else 0,
            vectors=len(segment_ids),
            kind=kind.name,
            lists=lists,
            lists_looked_into=reach.lists_looked_into,
            candidates=reach.candidates,
            exact_scores=kind.exact_scores,
            trained_on=trained_on,
            recall_at_10=reach.recall_at_10,
            recall_at_128=reach.recall_at_128,
            memory_bytes=settings.memory_bytes,
        ),
    )


def deleted_since(
    vectors: StoredVectors, generation: int, *, up_to: int | None = None
) -> NDArray[np.int64]:
    """Ids (at most `up_to`) that were deleted after a generation, ascending."""
    rows = vectors.database.rows(
        "SELECT segment FROM deleted WHERE generation > ? AND segment <= ? ORDER BY segment",
        (generation, 2**62 if up_to is None else up_to),
    )
    return np.fromiter((row[0] for row in rows), np.int64, count=len(rows))


def _reusable(
    folder: Path, vectors: StoredVectors, kind: IndexKind, count: int
) -> tuple[Any, IndexStamp] | None:
    """The index in force, to be changed, if what it has learnt still suits `count` vectors."""
    recorded = read_stamp(vectors.database)
    if recorded is None:
        return None
    stamp, checksums = recorded
    grown = count / max(stamp.trained_on, 1)
    if stamp.kind != kind.name or (stamp.lists and not 1 / _GROWTH <= grown <= _GROWTH):
        return None
    try:
        return open_index(folder, stamp, checksums, to_change=True), stamp
    except UnusableIndexFile:
        return None


def _bring_up_to_date(
    index: Any,
    vectors: StoredVectors,
    old: IndexStamp,
    segment_ids: NDArray[np.int64],
    on_progress: OnProgress,
) -> None:
    gone = deleted_since(vectors, old.generation, up_to=old.last_segment)
    if len(gone):
        on_progress("removing deleted vectors", 0, len(gone))
        index.remove_ids(faiss.IDSelectorBatch(gone))
    fresh = segment_ids[np.searchsorted(segment_ids, old.last_segment, side="right") :]
    add_rows(index, vectors, fresh, on_progress=on_progress)
