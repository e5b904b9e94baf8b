"""The segments of a collection in one SQLite file, where a video is there whole or not at all.

Each change is one transaction in write-ahead mode, so a process killed at any moment leaves the
last complete state. E is the embedding width, N a number of segments.
"""

import json
import os
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from reelscan.index.manifest import CollectionError
from reelscan.index.quarantine import QuarantinedVideo
from reelscan.index.video_files import VideoFile

DATABASE_NAME = "segments.sqlite"
_LOCK_WAIT_SECONDS = 60.0

# Columns have the types of the schema below; sqlite3 itself does not tell.
Row = tuple[Any, ...]

_SCHEMA = """
CREATE TABLE videos(
    path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT);
CREATE TABLE segments(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    video TEXT NOT NULL REFERENCES videos(path) ON DELETE CASCADE,
    start_seconds REAL NOT NULL, end_seconds REAL NOT NULL,
    vector BLOB NOT NULL, metadata TEXT NOT NULL);
CREATE INDEX segments_by_video ON segments(video);
CREATE TABLE quarantine(
    path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT,
    reason TEXT NOT NULL, quarantined_at TEXT NOT NULL);
CREATE TABLE state(
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    generation INTEGER NOT NULL, flat_index_generation INTEGER, flat_index_sha256 TEXT);
INSERT INTO state VALUES (1, 0, NULL, NULL);
"""


@dataclass(frozen=True, kw_only=True)
class NewSegment:
    """A stretch of a video with its vector, ready to be stored."""

    start_seconds: float
    end_seconds: float
    vector: NDArray[np.float32]
    """[E]"""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Anything JSON holds; handed back with search hits."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stored stretch of a video."""

    segment_id: int
    video: str
    start_seconds: float
    end_seconds: float
    metadata: Mapping[str, object]


@dataclass(frozen=True, kw_only=True)
class FlatIndexStamp:
    """Which state of the vectors the index file was written from, and what it should hash to."""

    generation: int
    sha256: str


class SegmentStore:
    """Reading and writing `segments.sqlite`; safe to share between threads."""

    def __init__(self, path: Path, *, embed_dim: int, read_only: bool = False) -> None:
        self._lock = threading.RLock()
        self._path = path
        self.embed_dim = embed_dim
        with self._understandable_errors():
            self._connection = _connect(path, read_only=read_only)

    @staticmethod
    def create(path: Path) -> None:
        """Write an empty database to `path`, which must not exist."""
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            # Large pages, for vectors of a few kilobytes fill small ones by halves.
            connection.execute("PRAGMA page_size = 16384")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(f"BEGIN; {_SCHEMA} COMMIT;")
        finally:
            connection.close()

    def close(self) -> None:
        """Close the file; further use is an error."""
        with self._lock:
            self._connection.close()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Everything read inside is of one moment, whatever other processes write."""
        with self._transaction("BEGIN"):
            yield

    def generation(self) -> int:
        """A number that grows with every change of the segments."""
        return int(self._rows("SELECT generation FROM state")[0][0])

    def count_segments(self) -> int:
        """How many segments are stored."""
        return int(self._rows("SELECT count(*) FROM segments")[0][0])

    def videos(self) -> dict[str, VideoFile]:
        """Every stored video, by name, as its file was when it was embedded."""
        rows = self._rows("SELECT path, size_bytes, mtime_ns, sha256 FROM videos ORDER BY path")
        return {row[0]: _video_file(row) for row in rows}

    def quarantined(self) -> dict[str, QuarantinedVideo]:
        """Every quarantined video, by name."""
        rows = self._rows(
            "SELECT path, size_bytes, mtime_ns, sha256, reason, quarantined_at"
            " FROM quarantine ORDER BY path"
        )
        return {
            row[0]: QuarantinedVideo(file=_video_file(row), reason=row[4], quarantined_at=row[5])
            for row in rows
        }

    def segments_of(self, video: str) -> list[Segment]:
        """The segments of one video in order of time."""
        return [
            _segment(row)
            for row in self._rows(
                "SELECT id, video, start_seconds, end_seconds, metadata FROM segments"
                " WHERE video = ? ORDER BY start_seconds, id",
                (video,),
            )
        ]

    def segments_by_id(self, segment_ids: Iterable[int]) -> dict[int, Segment]:
        """The segments of these ids; ids that no longer exist are left out."""
        query = "SELECT id, video, start_seconds, end_seconds, metadata FROM segments WHERE id = ?"
        with self.snapshot():
            rows = [row for one in segment_ids for row in self._rows(query, (one,))]
        return {row[0]: _segment(row) for row in rows}

    def put_video(self, file: VideoFile, segments: Sequence[NewSegment]) -> None:
        """Store a video and all its segments, replacing what was known of it."""
        rows = [
            (
                file.path,
                segment.start_seconds,
                segment.end_seconds,
                self._blob(segment.vector, file.path),
                json.dumps(dict(segment.metadata), allow_nan=False),
            )
            for segment in segments
        ]
        with self._transaction() as connection:
            _forget(connection, file.path)
            connection.execute(
                "INSERT INTO videos VALUES (?, ?, ?, ?)",
                (file.path, file.size_bytes, file.mtime_ns, file.sha256),
            )
            connection.executemany(
                "INSERT INTO segments(video, start_seconds, end_seconds, vector, metadata)"
                " VALUES (?, ?, ?, ?, ?)",
                rows,
            )
            _advance(connection)

    def touch_video(self, file: VideoFile) -> None:
        """Record a new modification time or hash of a video whose content is unchanged."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE videos SET size_bytes = ?, mtime_ns = ?, sha256 = ? WHERE path = ?",
                (file.size_bytes, file.mtime_ns, file.sha256, file.path),
            )

    def quarantine_video(self, entry: QuarantinedVideo) -> None:
        """Set a video aside; segments of an earlier version of it are dropped."""
        with self._transaction() as connection:
            _forget(connection, entry.file.path)
            connection.execute(
                "INSERT INTO quarantine(path, size_bytes, mtime_ns, sha256, reason, quarantined_at)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    entry.file.path,
                    entry.file.size_bytes,
                    entry.file.mtime_ns,
                    entry.file.sha256,
                    entry.reason,
                    entry.quarantined_at,
                ),
            )
            _advance(connection)

    def forget_videos(self, videos: Iterable[str]) -> None:
        """Remove videos, their segments and their quarantine entries, in one transaction."""
        with self._transaction() as connection:
            for video in videos:
                _forget(connection, video)
            _advance(connection)

    def flat_index_stamp(self) -> FlatIndexStamp | None:
        """What was recorded when the index file was last written."""
        row = self._rows("SELECT flat_index_generation, flat_index_sha256 FROM state")[0]
        return None if row[0] is None else FlatIndexStamp(generation=row[0], sha256=row[1])

    def stamp_flat_index(self, stamp: FlatIndexStamp) -> None:
        """Record that the index file was written."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE state SET flat_index_generation = ?, flat_index_sha256 = ?",
                (stamp.generation, stamp.sha256),
            )

    def segment_ids(self) -> NDArray[np.int64]:
        """All segment ids [N], ascending."""
        rows = self._rows("SELECT id FROM segments ORDER BY id")
        return np.array([row[0] for row in rows], dtype=np.int64)

    def vectors(self, segment_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors [N, E] of a stretch of `segment_ids()`, N at least 1."""
        rows = self._rows(
            "SELECT id, vector FROM segments WHERE id BETWEEN ? AND ? ORDER BY id",
            (int(segment_ids[0]), int(segment_ids[-1])),
        )
        if any(len(row[1]) != 4 * self.embed_dim for row in rows):
            raise CollectionError(
                f"{self._path} holds vectors that are not {self.embed_dim} wide: it is "
                "damaged; embed the videos again into a new collection"
            )
        joined = b"".join(row[1] for row in rows)
        return np.frombuffer(joined, "<f4").reshape(-1, self.embed_dim).astype(np.float32)

    def _blob(self, vector: NDArray[np.float32], video: str) -> bytes:
        if vector.shape != (self.embed_dim,) or not np.isfinite(vector).all():
            raise ValueError(
                f"{video}: a vector has the shape {vector.shape} and finite values only: "
                f"{bool(np.isfinite(vector).all())}; it should be ({self.embed_dim},) and finite. "
                "Check the encoder's weights."
            )
        return vector.astype("<f4").tobytes()

    def _rows(self, query: str, values: tuple[object, ...] = ()) -> list[Row]:
        with self._lock, self._understandable_errors():
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self, begin: str = "BEGIN IMMEDIATE") -> Iterator[sqlite3.Connection]:
        with self._lock, self._understandable_errors():
            self._connection.execute(begin)
            try:
                yield self._connection
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _understandable_errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            raise CollectionError(f"{self._path} cannot be used now: {error}") from error
        except sqlite3.DatabaseError as error:
            raise CollectionError(
                f"{self._path} is damaged ({error}); restore it from a copy, or embed the videos "
                "again into a new collection"
            ) from error


def _connect(path: Path, *, read_only: bool) -> sqlite3.Connection:
    """Open the database; `path` must exist."""
    options = f"mode={'ro' if read_only else 'rw'}"
    log = path.with_name(path.name + "-wal")
    if (
        read_only
        and not os.access(path.parent, os.W_OK)
        and not (log.exists() and log.stat().st_size)
    ):
        # Write-ahead mode wants to create its log even for reading; where it cannot, no other
        # process can be writing either.
        options += "&immutable=1"
    connection = sqlite3.connect(
        f"file:{quote(str(path.absolute()))}?{options}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=_LOCK_WAIT_SECONDS,
    )
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def _forget(connection: sqlite3.Connection, video: str) -> None:
    connection.execute("DELETE FROM videos WHERE path = ?", (video,))
    connection.execute("DELETE FROM quarantine WHERE path = ?", (video,))


def _advance(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE state SET generation = generation + 1")


def _video_file(row: Row) -> VideoFile:
    return VideoFile(path=row[0], size_bytes=row[1], mtime_ns=row[2], sha256=row[3])


def _segment(row: Row) -> Segment:
    return Segment(
        segment_id=row[0],
        video=row[1],
        start_seconds=row[2],
        end_seconds=row[3],
        metadata=json.loads(row[4]),
    )
