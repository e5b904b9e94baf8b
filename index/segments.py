"""The videos and segments of a collection, where a video is there whole or not at all.

Every change is one transaction and raises the generation, by which open readers notice it.
E is the embedding width, N a number of segments.
"""

import json
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from reelscan.index.database import Database, Row
from reelscan.index.quarantine import QuarantinedVideo
from reelscan.index.stored_vectors import StoredVectors
from reelscan.index.video_files import VideoFile

MetadataValue = str | int | float | bool

_MARKS = 500
_SEGMENT = (
    "SELECT segments.id, videos.path, start_seconds, end_seconds, segments.metadata,"
    " videos.metadata FROM segments JOIN videos ON videos.id = segments.video"
)


@dataclass(frozen=True, kw_only=True)
class NewSegment:
    """A stretch of a video with its vector, ready to be stored."""

    start_seconds: float
    end_seconds: float
    vector: NDArray[np.float32]
    """[E]"""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """Anything JSON holds; handed back with search hits."""
    frame_codes: bytes | None = None
    """What tells its frames apart (`frame_codes.py`), where the encoder knows frames."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A stored stretch of a video."""

    segment_id: int
    video: str
    start_seconds: float
    end_seconds: float
    metadata: Mapping[str, object]
    """That of its video, and over it its own."""


class SegmentStore:
    """Reading and writing videos, segments and quarantine; safe to share between threads."""

    def __init__(self, database: Database, vectors: StoredVectors) -> None:
        self.database = database
        self.vectors = vectors

    def count_segments(self) -> int:
        """How many segments are stored."""
        return int(self.database.rows("SELECT count(*) FROM segments")[0][0])

    def videos(self) -> dict[str, VideoFile]:
        """Every stored video, by name, as its file was when it was embedded."""
        rows = self.database.rows(
            "SELECT path, size_bytes, mtime_ns, sha256 FROM videos ORDER BY path"
        )
        return {row[0]: _video_file(row) for row in rows}

    def quarantined(self) -> dict[str, QuarantinedVideo]:
        """Every quarantined video, by name."""
        rows = self.database.rows(
            "SELECT path, size_bytes, mtime_ns, sha256, reason, quarantined_at"
            " FROM quarantine ORDER BY path"
        )
        return {
            row[0]: QuarantinedVideo(file=_video_file(row), reason=row[4], quarantined_at=row[5])
            for row in rows
        }

    def metadata_of(self, video: str) -> dict[str, MetadataValue] | None:
        """What was recorded about a video; None for a video that is not there."""
        rows = self.database.rows("SELECT metadata FROM videos WHERE path = ?", (video,))
        return json.loads(rows[0][0] or "{}") if rows else None

    def segments_of(self, video: str) -> list[Segment]:
        """The segments of one video in order of time."""
        query = f"{_SEGMENT} WHERE videos.path = ? ORDER BY start_seconds, segments.id"
        return [_segment(row) for row in self.database.rows(query, (video,))]

    def segments_by_id(self, segment_ids: Sequence[int]) -> dict[int, Segment]:
        """The segments of these ids; ids that no longer exist are left out."""
        rows = []
        for start in range(0, len(segment_ids), _MARKS):
            some = segment_ids[start : start + _MARKS]
            query = f"{_SEGMENT} WHERE segments.id IN ({','.join('?' * len(some))})"
            rows += self.database.rows(query, some)
        return {row[0]: _segment(row) for row in rows}

    def frame_codes(self, segment_ids: Sequence[int]) -> dict[int, bytes]:
        """What tells the frames of these segments apart, for those that have it."""
        query = (
            "SELECT segment, codes FROM frame_codes"
            " WHERE segment IN (SELECT value FROM json_each(?))"
        )
        return dict(self.database.rows(query, (json.dumps(list(segment_ids)),)))

    def put_videos(self, videos: Iterable[tuple[VideoFile, Sequence[NewSegment]]]) -> int:
        """Store videos with all their segments, replacing what was known of them, in one step.

        Metadata that was recorded about a video stays. Returns how many rows changed.
        """
        changed = 0
        with self.database.transaction() as connection:
            generation = _advance(connection)
            for file, segments in videos:
                kept, dropped = _forget(connection, file.path, generation)
                changed += dropped + len(segments)
                video = connection.execute(
                    "INSERT INTO videos(path, size_bytes, mtime_ns, sha256, metadata)"
                    " VALUES (?, ?, ?, ?, ?)",
                    (file.path, file.size_bytes, file.mtime_ns, file.sha256, kept),
                ).lastrowid
                self._insert(connection, file.path, video, segments)
        return changed

    def _insert(
        self,
        connection: sqlite3.Connection,
        path: str,
        video: int | None,
        segments: Sequence[NewSegment],
    ) -> None:
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'segments'")
        first = (last.fetchone() or (0,))[0] + 1
        connection.executemany(
            "INSERT INTO segments VALUES (?, ?, ?, ?, ?)",
            (
                (first + place, video, one.start_seconds, one.end_seconds, _as_json(one.metadata))
                for place, one in enumerate(segments)
            ),
        )
        connection.executemany(
            "INSERT INTO vectors VALUES (?, ?, ?)",
            (
                (first + place, *self.vectors.encode(one.vector, path))
                for place, one in enumerate(segments)
            ),
        )
        connection.executemany(
            "INSERT INTO frame_codes VALUES (?, ?)",
            (
                (first + place, one.frame_codes)
                for place, one in enumerate(segments)
                if one.frame_codes is not None
            ),
        )

    def touch_video(self, file: VideoFile) -> None:
        """Record a new modification time or hash of a video whose content is unchanged."""
        with self.database.transaction() as connection:
            connection.execute(
                "UPDATE videos SET size_bytes = ?, mtime_ns = ?, sha256 = ? WHERE path = ?",
                (file.size_bytes, file.mtime_ns, file.sha256, file.path),
            )

    def edit_metadata(
        self, videos: Iterable[str], changes: Mapping[str, MetadataValue | None]
    ) -> None:
        """Set keys of videos' metadata, or with None remove them, in one step.

        Raises:
            ValueError: a video is not there, or a key or value is none that can be kept.
        """
        _check_metadata(changes)
        with self.database.transaction() as connection:
            _advance(connection)
            for video in videos:
                row = connection.execute(
                    "SELECT metadata FROM videos WHERE path = ?", (video,)
                ).fetchone()
                if row is None:
                    raise ValueError(f"there is no video {video!r} in {self.database.path.parent}")
                edited = {**json.loads(row[0] or "{}"), **changes}
                kept = {key: value for key, value in edited.items() if value is not None}
                connection.execute(
                    "UPDATE videos SET metadata = ? WHERE path = ?", (_as_json(kept), video)
                )

    def quarantine_video(self, entry: QuarantinedVideo) -> int:
        """Set a video aside; returns how many segments of an earlier version were dropped."""
        file = entry.file
        with self.database.transaction() as connection:
            kept, dropped = _forget(connection, file.path, _advance(connection))
            connection.execute(
                "INSERT INTO quarantine VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(file.path, file.size_bytes, file.mtime_ns, file.sha256),
                    *(entry.reason, entry.quarantined_at, kept),
                ),
            )
        return dropped

    def forget_videos(self, videos: Iterable[str]) -> int:
        """Remove videos, segments and quarantine entries; returns how many segments it were."""
        with self.database.transaction() as connection:
            generation = _advance(connection)
            return sum(_forget(connection, video, generation)[1] for video in videos)


def _advance(connection: sqlite3.Connection) -> int:
    connection.execute("UPDATE state SET generation = generation + 1")
    return int(connection.execute("SELECT generation FROM state").fetchone()[0])


def _forget(connection: sqlite3.Connection, path: str, generation: int) -> tuple[str | None, int]:
    """Drop all that is known of a video; returns its metadata and how many segments it had."""
    kept: str | None = None
    dropped = 0
    row = connection.execute("SELECT id, metadata FROM videos WHERE path = ?", (path,)).fetchone()
    if row is not None:
        video, kept = row
        of_video = "SELECT id FROM segments WHERE video = ?"
        connection.execute(
            f"INSERT INTO deleted SELECT id, ? FROM ({of_video})", (generation, video)
        )
        for table in ("vectors", "frame_codes"):
            connection.execute(f"DELETE FROM {table} WHERE segment IN ({of_video})", (video,))
        dropped = connection.execute("DELETE FROM segments WHERE video = ?", (video,)).rowcount
        connection.execute("DELETE FROM videos WHERE id = ?", (video,))
    row = connection.execute("SELECT metadata FROM quarantine WHERE path = ?", (path,)).fetchone()
    if row is not None:
        kept = row[0]
        connection.execute("DELETE FROM quarantine WHERE path = ?", (path,))
    return kept, dropped


def _check_metadata(changes: Mapping[str, MetadataValue | None]) -> None:
    for key, value in changes.items():
        if not key or '"' in key or not isinstance(value, MetadataValue | None):
            raise ValueError(
                f"metadata {key!r} = {value!r} cannot be kept: a key is a name without double "
                "quotes, a value is text, a number, true or false"
            )


def _as_json(metadata: Mapping[str, object]) -> str | None:
    """The text that is stored; none for no metadata, so that filters pass it by quickly."""
    return json.dumps(dict(metadata), allow_nan=False) if metadata else None


def _from_json(text: str | None) -> dict[str, object]:
    return json.loads(text) if text else {}


def _video_file(row: Row) -> VideoFile:
    return VideoFile(path=row[0], size_bytes=row[1], mtime_ns=row[2], sha256=row[3])


def _segment(row: Row) -> Segment:
    return Segment(
        segment_id=row[0],
        video=row[1],
        start_seconds=row[2],
        end_seconds=row[3],
        metadata=_from_json(row[5]) | _from_json(row[4]),
    )
