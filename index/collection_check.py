"""Whether a collection is whole: the database, each vector, and the FAISS file against both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from reelscan.index.compaction import deleted_since
from reelscan.index.derived_file import (
    PATTERN,
    IndexStamp,
    UnusableIndexFile,
    open_index,
    read_stamp,
)
from reelscan.index.stored_vectors import StoredVectors

_NAMED_AT_MOST = 10


@dataclass(frozen=True, kw_only=True)
class CheckReport:
    """What a check found."""

    videos: int
    segments: int
    damage: tuple[str, ...]
    """What is lost or wrong in the database, with the remedy; empty when it is whole."""
    rebuildable: tuple[str, ...]
    """What is wrong with derived files only; the next writer or `rebuild` puts it right."""
    notes: tuple[str, ...]
    """What is no fault, and worth knowing."""

    @property
    def whole(self) -> bool:
        """Whether nothing at all is wrong."""
        return not self.damage and not self.rebuildable


def check_collection(folder: Path, vectors: StoredVectors) -> CheckReport:
    """Read everything and compare; takes seconds a million segments and changes nothing."""
    while True:
        before = read_stamp(vectors.database)
        report = _check(folder, vectors)
        after = read_stamp(vectors.database)
        # A file that was replaced while it was looked at is no fault.
        if report.whole or (before and before[0]) == (after and after[0]):
            return report


def _check(folder: Path, vectors: StoredVectors) -> CheckReport:
    database = vectors.database
    with database.snapshot():
        damage = _database_damage(vectors)
        rebuildable: list[str] = []
        notes: list[str] = []
        found = read_stamp(database)
        if found is not None:
            try:
                index = open_index(folder, *found)
            except UnusableIndexFile as error:
                rebuildable.append(str(error))
            else:
                rebuildable += _compare_ids(index, vectors, found[0])
                notes += _not_in_the_file(vectors, found[0])
        strays = [one.name for one in folder.glob(PATTERN)]
        strays = [one for one in strays if found is None or one != found[0].file]
        if strays:
            notes.append(f"left behind, removed by the next compaction: {', '.join(strays)}")
        counts = "SELECT (SELECT count(*) FROM videos), (SELECT count(*) FROM segments)"
        videos, segments = database.rows(counts)[0]
    return CheckReport(
        videos=videos,
        segments=segments,
        damage=tuple(damage),
        rebuildable=tuple(rebuildable),
        notes=tuple(notes),
    )


def _database_damage(vectors: StoredVectors) -> list[str]:
    database = vectors.database
    damage = [row[0] for row in database.rows("PRAGMA integrity_check") if row[0] != "ok"]
    if damage:
        return [
            f"{database.path.name}: {' '.join(damage[:_NAMED_AT_MOST])}; restore it from a copy, "
            "or embed the videos again into a new collection"
        ]
    orphans = database.rows("PRAGMA foreign_key_check")
    if orphans:
        damage.append(f"{len(orphans)} rows belong to nothing; restore a copy")
    query = "SELECT count(*) FROM segments WHERE id NOT IN (SELECT segment FROM vectors)"
    missing = database.rows(query)[0][0]
    if missing:
        damage.append(f"{missing} segments have no vector; restore a copy")
    flipped = vectors.damaged()
    if flipped:
        damage.append(
            f"{len(flipped)} vectors are not what was written, of these videos: "
            f"{', '.join(_videos_of(vectors, flipped))}; `reelscan index` embeds them again once "
            "they are forgotten (Collection.forget_videos)"
        )
    return damage


def _videos_of(vectors: StoredVectors, segment_ids: list[int]) -> list[str]:
    query = "SELECT path FROM videos WHERE id = (SELECT video FROM segments WHERE id = ?)"
    found = (row[0] for one in segment_ids for row in vectors.database.rows(query, (one,)))
    names = list(dict.fromkeys(found))
    more = [f"and {len(names) - _NAMED_AT_MOST} more"] if len(names) > _NAMED_AT_MOST else []
    return names[:_NAMED_AT_MOST] + more


def _compare_ids(index: Any, vectors: StoredVectors, stamp: IndexStamp) -> list[str]:
    if index.d != vectors.embed_dim:
        return [f"{stamp.file} is {index.d} wide, the collection {vectors.embed_dim}"]
    expected = vectors.segment_ids()
    expected = expected[expected <= stamp.last_segment]
    gone = deleted_since(vectors, stamp.generation, up_to=stamp.last_segment)
    # A unique id is there once, so equal sorted arrays also rule out doubles.
    if not np.array_equal(np.sort(_ids_in(index)), np.union1d(expected, gone)):
        return [f"{stamp.file} does not hold the segments that it should"]
    return []


def _ids_in(index: Any) -> NDArray[np.int64]:
    concrete: Any = faiss.downcast_index(index)
    if isinstance(concrete, faiss.IndexIDMap):
        return np.asarray(faiss.vector_to_array(concrete.id_map), np.int64)
    lists = concrete.invlists
    parts = [
        faiss.rev_swig_ptr(lists.get_ids(one), lists.list_size(one)).copy()
        for one in range(lists.nlist)
        if lists.list_size(one)
    ]
    return np.concatenate([np.empty(0, np.int64), *parts])


def _not_in_the_file(vectors: StoredVectors, stamp: IndexStamp) -> list[str]:
    query = "SELECT count(*) FROM segments WHERE id > ?"
    fresh = vectors.database.rows(query, (stamp.last_segment,))[0][0]
    gone = len(deleted_since(vectors, stamp.generation, up_to=stamp.last_segment))
    if not fresh and not gone:
        return []
    return [
        f"{fresh} segments are newer than {stamp.file}, {gone} in it were deleted: searches know; "
        "`reelscan index compact` brings it up to date"
    ]
