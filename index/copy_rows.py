"""Bringing videos with all their rows from one place to another, each once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from reelscan.index.collection import Collection
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile

_ROWS_AT_ONCE = 16384

VideoRows = tuple[VideoFile, list[NewSegment], dict[str, Any]]
"""A video, its segments, and what was recorded about it."""


class RowTarget(Protocol):
    """Where videos are brought to."""

    def videos(self) -> Mapping[str, VideoFile]:
        """The videos that are there, by name."""

    def count_segments_of(self, video: str) -> int:
        """How many segments of a video are there."""

    def put(self, videos: Sequence[VideoRows]) -> None:
        """Store videos whole, replacing what was known of them."""


@dataclass(frozen=True, kw_only=True)
class CopyReport:
    """What was brought."""

    videos: int
    """Stored, new or replaced."""
    rows: int
    unchanged: int
    """Videos that were there already."""


class CollectionTarget:
    """A collection as a `RowTarget`."""

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    def videos(self) -> Mapping[str, VideoFile]:
        return self._collection.videos()

    def count_segments_of(self, video: str) -> int:
        return len(self._collection.segments_of(video))

    def put(self, videos: Sequence[VideoRows]) -> None:
        self._collection.add_videos((file, segments) for file, segments, _ in videos)
        for file, _, recorded in videos:
            if recorded:
                self._collection.edit_metadata([file.path], recorded)


def copy_videos(
    videos: Iterable[VideoRows],
    target: RowTarget,
    *,
    on_progress: Callable[[int], None] | None = None,
) -> CopyReport:
    """Store videos; one that is there already is replaced, unless it is the same.

    Some are stored in one step, so stopping keeps whole videos, and running it again goes on.
    `on_progress` is told the rows looked at.
    """
    stored = target.videos()
    waiting: list[VideoRows] = []
    count = rows = unchanged = seen = 0
    for video in videos:
        file, segments, _ = video
        seen += len(segments)
        # A file of no size was never looked at, so it tells nothing.
        same = stored.get(file.path) == file and file.size_bytes > 0
        if same and target.count_segments_of(file.path) == len(segments):
            unchanged += 1
        else:
            waiting.append(video)
            count, rows = count + 1, rows + len(segments)
        if sum(len(one) for _, one, _ in waiting) >= _ROWS_AT_ONCE:
            target.put(waiting)
            waiting = []
        if on_progress is not None:
            on_progress(seen)
    target.put(waiting)
    return CopyReport(videos=count, rows=rows, unchanged=unchanged)
