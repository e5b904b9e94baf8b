"""The vectors of a collection as its database holds them, read by id or in order.

Each is kept with its CRC-32, for SQLite does not notice a flipped bit. N vectors, E embedding
width.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelscan.index.database import Database
from reelscan.index.manifest import CollectionError, VectorType

_DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
_ROWS_AT_ONCE = 16384


@dataclass(frozen=True, kw_only=True)
class VectorRows:
    """A stretch of vectors in order of id."""

    segment_ids: NDArray[np.int64]
    """[N], ascending."""
    vectors: NDArray[np.float32]
    """[N, E]"""


class StoredVectors:
    """Writes vectors as rows, and reads them."""

    def __init__(self, database: Database, *, embed_dim: int, vector_type: VectorType) -> None:
        self.database = database
        self.embed_dim = embed_dim
        self.vector_type: VectorType = vector_type
        self._dtype = _DTYPES[vector_type]

    def over(self, database: Database) -> "StoredVectors":
        """The same vectors through another connection."""
        return StoredVectors(database, embed_dim=self.embed_dim, vector_type=self.vector_type)

    def encode(self, vector: NDArray[np.float32], video: str) -> tuple[int, bytes]:
        """Checksum and bytes of a vector [E]; raises ValueError naming `video` on a bad one."""
        finite = bool(np.isfinite(vector).all())
        with np.errstate(over="ignore"):
            stored = np.asarray(vector).astype(self._dtype)
        if vector.shape != (self.embed_dim,) or not np.isfinite(stored).all():
            raise ValueError(
                f"{video}: a vector has the shape {vector.shape} and finite values only: "
                f"{finite}; it should be ({self.embed_dim},) and finite in {self.vector_type}. "
                "Check the encoder's weights."
            )
        blob = stored.tobytes()
        return zlib.crc32(blob), blob

    def read(self, segment_ids: NDArray[np.int64]) -> VectorRows:
        """The vectors of these ids; ids that no longer exist are left out."""
        return self._rows(
            "SELECT segment, vector FROM vectors"
            " WHERE segment IN (SELECT value FROM json_each(?)) ORDER BY segment",
            (json.dumps(segment_ids.tolist()),),
        )

    def stream(self, *, after: int = 0, up_to: int | None = None) -> Iterator[VectorRows]:
        """All vectors with ids above `after`, in order, some thousands at a time."""
        query = (
            "SELECT segment, vector FROM vectors"
            f" WHERE segment > ? AND segment <= ? ORDER BY segment LIMIT {_ROWS_AT_ONCE}"
        )
        last = after
        while True:
            rows = self._rows(query, (last, 2**62 if up_to is None else up_to))
            if not len(rows.segment_ids):
                return
            yield rows
            last = int(rows.segment_ids[-1])

    def segment_ids(self, *, after: int = 0) -> NDArray[np.int64]:
        """The ids [N] above `after`, ascending."""
        rows = self.database.rows("SELECT id FROM segments WHERE id > ? ORDER BY id", (after,))
        return np.fromiter((row[0] for row in rows), np.int64, count=len(rows))

    def in_order(self, segment_ids: Sequence[int]) -> NDArray[np.float32]:
        """The vectors [N, E] of these ids, in their order; KeyError for one that is gone."""
        rows = self.read(np.array(segment_ids, dtype=np.int64))
        places = {one: place for place, one in enumerate(rows.segment_ids.tolist())}
        return rows.vectors[[places[one] for one in segment_ids]]

    def sample(self, count: int) -> NDArray[np.float32]:
        """The vectors [at most `count`, E] of ids spread over all, always the same ones."""
        last = self.database.rows("SELECT coalesce(max(id), 0) FROM segments")[0][0]
        rows = self.read(np.unique(np.linspace(1, max(last, 1), count).astype(np.int64)))
        if len(rows.segment_ids) == 0:
            # Nearly all are deleted, so what is left is little.
            rows = self.read(self.segment_ids()[:count])
        return rows.vectors

    def damaged(self) -> list[int]:
        """The ids of vectors that are not what was written."""
        found: list[int] = []
        last = 0
        while True:
            rows = self.database.rows(
                "SELECT segment, crc32, vector FROM vectors WHERE segment > ?"
                f" ORDER BY segment LIMIT {_ROWS_AT_ONCE}",
                (last,),
            )
            if not rows:
                return found
            last = rows[-1][0]
            found += [row[0] for row in rows if zlib.crc32(row[2]) != row[1]]

    def _rows(self, query: str, values: tuple[object, ...]) -> VectorRows:
        rows = self.database.rows(query, values)
        width = self._dtype.itemsize * self.embed_dim
        if any(len(row[1]) != width for row in rows):
            raise CollectionError(
                f"{self.database.path} holds vectors that are not {self.embed_dim} wide: it is "
                "damaged; embed the videos again into a new collection"
            )
        joined = b"".join([row[1] for row in rows])
        vectors = np.frombuffer(joined, self._dtype).reshape(-1, self.embed_dim)
        return VectorRows(
            segment_ids=np.fromiter((row[0] for row in rows), np.int64, count=len(rows)),
            vectors=vectors.astype(np.float32),
        )
