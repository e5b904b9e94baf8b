"""Whole rows of a collection in order of id: what is exported, moved and compared.

N rows, E embedding width.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reelscan.index.segments import NewSegment
from reelscan.index.stored_vectors import StoredVectors
from reelscan.index.video_files import VideoFile

_ROWS = (
    "SELECT segments.id, videos.path, videos.size_bytes, videos.mtime_ns, videos.sha256,"
    " start_seconds, end_seconds, segments.metadata, videos.metadata, frame_codes.codes"
    " FROM segments JOIN videos ON videos.id = segments.video"
    " LEFT JOIN frame_codes ON frame_codes.segment = segments.id"
    " WHERE segments.id BETWEEN ? AND ? ORDER BY segments.id"
)


@dataclass(frozen=True, kw_only=True)
class StoredRows:
    """A stretch of rows; the rows of a video follow one another."""

    segment_ids: NDArray[np.int64]
    """[N], ascending."""
    videos: tuple[VideoFile, ...]
    """Of each row."""
    segments: tuple[NewSegment, ...]
    """With vectors and metadata of their own."""
    video_metadata: tuple[dict[str, Any], ...]
    """What was recorded about each row's video."""

    @property
    def vectors(self) -> NDArray[np.float32]:
        """[N, E]"""
        return np.stack([segment.vector for segment in self.segments])


def stream_rows(vectors: StoredVectors) -> Iterator[StoredRows]:
    """Every row, some thousands at a time, all of one moment whatever is written meanwhile."""
    reader = vectors.database.another_reader()
    try:
        with reader.snapshot():
            for block in vectors.over(reader).stream():
                ids = block.segment_ids
                rows = reader.rows(_ROWS, (int(ids[0]), int(ids[-1])))
                assert len(rows) == len(ids), "segments and vectors are written together"
                yield StoredRows(
                    segment_ids=ids,
                    videos=tuple(
                        VideoFile(path=row[1], size_bytes=row[2], mtime_ns=row[3], sha256=row[4])
                        for row in rows
                    ),
                    segments=tuple(
                        NewSegment(
                            start_seconds=row[5],
                            end_seconds=row[6],
                            vector=vector,
                            metadata=json.loads(row[7] or "{}"),
                            frame_codes=row[9],
                        )
                        for row, vector in zip(rows, block.vectors, strict=True)
                    ),
                    video_metadata=tuple(json.loads(row[8] or "{}") for row in rows),
                )
    finally:
        reader.close()


def by_video(
    blocks: Iterator[StoredRows],
) -> Iterator[tuple[VideoFile, list[NewSegment], dict[str, Any]]]:
    """Each video with its segments and what was recorded about it.

    Raises ValueError if the rows of a video do not follow one another.
    """
    file: VideoFile | None = None
    segments: list[NewSegment] = []
    metadata: dict[str, Any] = {}
    seen: set[str] = set()
    for block in blocks:
        rows: Sequence[tuple[VideoFile, NewSegment, dict[str, Any]]] = list(
            zip(block.videos, block.segments, block.video_metadata, strict=True)
        )
        for of_row, segment, recorded in rows:
            if file is None or of_row.path != file.path:
                if file is not None:
                    yield file, segments, metadata
                if of_row.path in seen:
                    raise ValueError(
                        f"the rows of {of_row.path} are not together: sort the rows by video"
                    )
                seen.add(of_row.path)
                file, segments, metadata = of_row, [], recorded
            segments.append(segment)
    if file is not None:
        yield file, segments, metadata
