"""What a search looks through: the FAISS file, the vectors added since, less what was deleted.

A change of the database, by whichever process, is noticed by its generation and costs only what
changed: new vectors are read into memory and compared exactly, deleted ids are left out. When these
grow the file is due to be made again (`compaction.py`). D fresh vectors, E embedding width.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.index.base_index import BaseIndex
from reelscan.index.compaction import deleted_since, make_index
from reelscan.index.derived_file import (
    NO_FILE,
    IndexStamp,
    UnusableIndexFile,
    open_index,
    read_stamp,
    why_unusable,
)
from reelscan.index.exact_search import BestSoFar
from reelscan.index.faiss_selection import Allowed
from reelscan.index.index_settings import IndexSettings
from reelscan.index.manifest import CollectionError
from reelscan.index.stored_vectors import StoredVectors, VectorRows


@dataclass(frozen=True, kw_only=True)
class View:
    """A state of the collection, ready to be searched; never changed."""

    generation: int
    recorded: IndexStamp | None
    """The file in force; that of `base`, unless it could not be used."""
    base: BaseIndex
    fresh: VectorRows
    """Above the ids of the base."""
    gone: NDArray[np.int64]
    """Ids of the base that were deleted, ascending."""

    def search(
        self, queries: NDArray[np.float32], *, top: int, among: Allowed | None = None
    ) -> BestSoFar:
        """The `top` best for `queries` [Q, E]; `among` (ids of this state) limits them."""
        best = self.base.search(queries, top=top, gone=self.gone, among=among)
        ids, vectors = self.fresh.segment_ids, self.fresh.vectors
        if among is not None and len(ids):
            passing = among.contains(ids)
            ids, vectors = ids[passing], vectors[passing]
        if len(ids):
            best.see(vectors, ids)
        return best


@dataclass(kw_only=True)
class _FreshRows:
    """Rows [D, E] that grow in place: what was handed out before stays as it was."""

    ids: NDArray[np.int64]
    vectors: NDArray[np.float32]
    count: int = 0

    def rows(self) -> VectorRows:
        return VectorRows(segment_ids=self.ids[: self.count], vectors=self.vectors[: self.count])

    def append(self, more: VectorRows) -> None:
        end = self.count + len(more.segment_ids)
        if end > len(self.ids):
            room = max(end, 2 * len(self.ids)) - self.count
            self.ids = np.concatenate([self.ids[: self.count], np.empty(room, np.int64)])
            space = np.empty((room, self.vectors.shape[1]), np.float32)
            self.vectors = np.concatenate([self.vectors[: self.count], space])
        self.ids[self.count : end] = more.segment_ids
        self.vectors[self.count : end] = more.vectors
        self.count = end

    def drop(self, gone: NDArray[np.int64]) -> None:
        rows = self.rows()
        kept = ~np.isin(rows.segment_ids, gone)
        if not kept.all():
            self.ids, self.vectors = rows.segment_ids[kept], rows.vectors[kept]
            self.count = len(self.ids)


class LiveIndex:
    """Keeps a view of the newest state; safe to share between threads."""

    def __init__(
        self,
        folder: Path,
        vectors: StoredVectors,
        *,
        settings: IndexSettings,
        repair: Callable[[str], bool],
    ) -> None:
        """`repair` is told why the file cannot be used, and says whether it wrote a new one."""
        self._folder = folder
        self._vectors = vectors
        self._settings = settings
        self._repair = repair
        self._view: View | None = None
        self._fresh = _no_rows(vectors.embed_dim)
        self._lock = threading.Lock()

    def view(self) -> View:
        """The collection as it is now; raises CollectionError if it is damaged."""
        with self._lock:
            unusable = self._refresh(build=False)
            while unusable is not None:
                replaced = read_stamp(self._vectors.database)
                if replaced is not None and replaced[0] != unusable.recorded:
                    # Another process compacted between our look at the stamp and at the file.
                    unusable = self._refresh(build=False)
                else:
                    unusable = self._refresh(build=not self._repair(unusable.reason))
            assert self._view is not None, "it was refreshed"
            return self._view

    def is_current(self) -> bool:
        """Whether the file in force is whole and holds exactly the vectors of now."""
        with self._vectors.database.snapshot():
            found = read_stamp(self._vectors.database)
            if found is None or why_unusable(self._folder, *found) is not None:
                return False
            newer = "SELECT (SELECT count(*) FROM deleted), (SELECT max(id) FROM segments)"
            deleted, last = self._vectors.database.rows(newer)[0]
            return deleted == 0 and (last or 0) <= found[0].last_segment

    def _refresh(self, *, build: bool) -> "_Unusable | None":
        """Bring the view up to date; says what is wrong with the file unless told to `build`."""
        database = self._vectors.database
        old = self._view
        if old is not None and old.generation == self._generation():
            return None
        with database.snapshot():
            generation = self._generation()
            found = read_stamp(database)
            recorded = None if found is None else found[0]
            if old is not None and old.recorded == recorded:
                self._view = self._advanced(old, generation)
                return None
            try:
                base = self._built() if build else self._opened(found)
            except UnusableIndexFile as error:
                return _Unusable(recorded=recorded, reason=str(error))
            self._fresh = _no_rows(self._vectors.embed_dim)
            start = View(
                generation=base.stamp.generation,
                recorded=recorded,
                base=base,
                fresh=self._fresh.rows(),
                gone=np.empty(0, np.int64),
            )
            self._view = self._advanced(start, generation)
        return None

    def _generation(self) -> int:
        return int(self._vectors.database.rows("SELECT generation FROM state")[0][0])

    def _opened(self, found: tuple[IndexStamp, NDArray[np.uint32]] | None) -> BaseIndex:
        if found is None:
            # None was written yet: nothing is wrong, as long as there is little to compare.
            count = self._vectors.database.rows("SELECT count(*) FROM segments")[0][0]
            if 4 * count * self._vectors.embed_dim > self._settings.exact_bytes:
                raise UnusableIndexFile("there is no index file yet")
            return BaseIndex(faiss_index=None, stamp=NO_FILE, vectors=self._vectors)
        index = open_index(self._folder, *found)
        if index.d != self._vectors.embed_dim:
            raise CollectionError(
                f"{self._folder} holds vectors that are not {self._vectors.embed_dim} wide, but "
                f"{index.d}: its manifest.json or database is damaged; restore it from a copy"
            )
        return BaseIndex(faiss_index=index, stamp=found[0], vectors=self._vectors)

    def _built(self) -> BaseIndex:
        built = make_index(
            self._folder,
            self._vectors,
            settings=self._settings,
            anew=True,
            on_progress=lambda what, done, total: None,
        )
        return BaseIndex(faiss_index=built.faiss_index, stamp=built.stamp, vectors=self._vectors)

    def _advanced(self, view: View, generation: int) -> View:
        """The view with all that was added and deleted since."""
        last = view.base.stamp.last_segment
        gone = deleted_since(self._vectors, view.generation)
        seen = view.fresh.segment_ids
        for rows in self._vectors.stream(after=int(seen[-1]) if len(seen) else last):
            self._fresh.append(rows)
        self._fresh.drop(gone)
        return replace(
            view,
            generation=generation,
            fresh=self._fresh.rows(),
            gone=np.union1d(view.gone, gone[gone <= last]),
        )


@dataclass(frozen=True, kw_only=True)
class _Unusable:
    recorded: IndexStamp | None
    reason: str


def _no_rows(embed_dim: int) -> _FreshRows:
    return _FreshRows(ids=np.empty(0, np.int64), vectors=np.empty((0, embed_dim), np.float32))
