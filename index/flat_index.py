"""The FAISS file of a collection: exact inner-product search, derived from the stored vectors.

A damaged FAISS file often loads without complaint, so its SHA-256 is compared before it is read;
whatever does not match is built again from the database. Q queries, E embedding width.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from reelscan.index.segments import FlatIndexStamp, SegmentStore
from reelscan.models.atomic_file import replacing

FLAT_INDEX_NAME = "vectors.faiss"
_ROWS_AT_ONCE = 16384


@dataclass(frozen=True, kw_only=True)
class FlatIndex:
    """An index in memory; row i belongs to `segment_ids[i]`."""

    faiss_index: Any
    segment_ids: NDArray[np.int64]
    generation: int
    saved: bool
    """Whether it was read from the file, rather than built."""

    def search(
        self, queries: NDArray[np.float32], *, top: int
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scores and segment ids, both [Q, min(top, segments)], best first."""
        if len(self.segment_ids) == 0:
            nothing = (len(queries), 0)
            return np.empty(nothing, np.float32), np.empty(nothing, np.int64)
        scores, rows = self.faiss_index.search(queries, min(top, len(self.segment_ids)))
        return scores, self.segment_ids[rows]


def load_flat_index(
    folder: Path, store: SegmentStore, *, save: bool, on_notice: Callable[[str], None]
) -> FlatIndex:
    """Read the index file, or build it from the stored vectors and say why through `on_notice`."""
    with store.snapshot():
        index = _load_or_build(folder / FLAT_INDEX_NAME, store, on_notice)
    if save and not index.saved:
        save_flat_index(folder, store, index)
    return index


def save_flat_index(folder: Path, store: SegmentStore, index: FlatIndex) -> None:
    """Write the index file atomically and record its checksum."""
    with replacing(folder / FLAT_INDEX_NAME) as temporary:
        faiss.write_index(index.faiss_index, str(temporary))
        sha256 = _sha256(temporary)
    store.stamp_flat_index(FlatIndexStamp(generation=index.generation, sha256=sha256))


def _load_or_build(path: Path, store: SegmentStore, on_notice: Callable[[str], None]) -> FlatIndex:
    generation = store.generation()
    segment_ids = store.segment_ids()
    reason = _why_unusable(path, store.flat_index_stamp(), generation)
    if reason is None:
        faiss_index = faiss.read_index(str(path))
        if (faiss_index.ntotal, faiss_index.d) == (len(segment_ids), store.embed_dim):
            return FlatIndex(
                faiss_index=faiss_index,
                segment_ids=segment_ids,
                generation=generation,
                saved=True,
            )
        reason = "has another size than the stored vectors"
    if len(segment_ids):
        on_notice(f"{path.name} {reason}: built again from {len(segment_ids)} stored vectors")
    faiss_index = faiss.IndexFlatIP(store.embed_dim)
    for start in range(0, len(segment_ids), _ROWS_AT_ONCE):
        faiss_index.add(store.vectors(segment_ids[start : start + _ROWS_AT_ONCE]))
    return FlatIndex(
        faiss_index=faiss_index, segment_ids=segment_ids, generation=generation, saved=False
    )


def _why_unusable(path: Path, stamp: FlatIndexStamp | None, generation: int) -> str | None:
    if stamp is None or not path.exists():
        return "is absent"
    if stamp.generation != generation:
        return "is older than the stored vectors"
    if _sha256(path) != stamp.sha256:
        return "does not match its checksum"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
