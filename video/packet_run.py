"""The packets of a video, or of a stretch of it, read once for a table and again for decoding."""

import itertools
import math
from collections.abc import Iterator
from fractions import Fraction

from reelscan.video.errors import VideoError
from reelscan.video.packet_table import (
    KEPT_BYTES,
    PacketTable,
    VideoPacket,
    first_shown_pts,
    table_of,
)
from reelscan.video.pyav_stream import PyAVStream
from reelscan.video.source import VideoSource
from reelscan.video.timeline import Timeline


class PacketRun:
    """An open stream with the table of its packets.

    In files longer than `KEPT_BYTES` the run is only as long as [start, end] needs, which spares
    reading all of them; times still count from the video's first frame.
    """

    def __init__(
        self,
        source: VideoSource,
        *,
        name: str,
        thread_count: int = 1,
        start_seconds: float = 0.0,
        end_seconds: float = math.inf,
    ) -> None:
        self._source, self._name, self._thread_count = source, name, thread_count
        self._seek_pts: int | None = None
        self.stream = self._opened()
        try:
            is_part = start_seconds > 0 or end_seconds < math.inf
            if is_part and self.stream.file_bytes > KEPT_BYTES:
                self._origin_pts, self.table = self._part(start_seconds, end_seconds)
            else:
                self._origin_pts, self.table = self._whole()
        except BaseException:
            self.close()
            raise

    @property
    def starts_midway(self) -> bool:
        """Whether frames before the run may show up in decoding."""
        return self._seek_pts is not None

    def timeline(self) -> Timeline:
        """Of the frames that the table promises."""
        return self.table.timeline(self.stream.time_base, origin_pts=self._origin_pts)

    def packets(self) -> Iterator[VideoPacket]:
        """Those of the table, in decoding order. Only the latest iterator may be used."""
        if self.table.packets is not None:
            return iter(self.table.packets)
        return itertools.islice(self._anew(), self.table.count)

    def widen(self) -> None:
        """Make it a run of all packets."""
        if self.starts_midway or self.table.end_pts is None:
            self._seek_pts = None
            self._reopen()
            self._origin_pts, self.table = self._whole()

    def close(self) -> None:
        self.stream.close()

    def _whole(self) -> tuple[int, PacketTable]:
        table = table_of(self.stream.packets(), frame_pts=self._frame_pts)
        return self._checked(table, None)

    def _part(self, start_seconds: float, end_seconds: float) -> tuple[int, PacketTable]:
        origin_pts = first_shown_pts(self.stream.packets())
        stop_pts = math.inf
        if origin_pts is not None:
            stop_pts = origin_pts + end_seconds / float(self.stream.time_base)
            if start_seconds > 0 and self.stream.can_seek:
                self._seek_pts = origin_pts + int(start_seconds / self.stream.time_base)
        table = table_of(self._anew(), frame_pts=self._frame_pts, stop_pts=stop_pts)
        return self._checked(table, origin_pts)

    def _checked(self, table: PacketTable, origin_pts: int | None) -> tuple[int, PacketTable]:
        if not table.count or (table.is_trustworthy and not table.shown):
            raise table.failure or VideoError(self._name, "holds no video frames")
        if origin_pts is None:
            origin_pts = table.shown[0] if table.shown else 0
        return origin_pts, table

    def _anew(self) -> Iterator[VideoPacket]:
        """From a keyframe at or before `_seek_pts` on, or from the beginning."""
        self._reopen()
        if self._seek_pts is None:
            return self.stream.packets()
        self.stream.seek(self._seek_pts)
        packets = self.stream.packets()
        first = next(packets, None)
        # Many formats seek badly or not at all; what was reached tells.
        if first is not None and first.pts is not None and first.pts <= self._seek_pts:
            return itertools.chain([first], packets)
        self._seek_pts = None
        return self._anew()

    @property
    def _frame_pts(self) -> Fraction:
        return 1 / (self.stream.header_fps * self.stream.time_base)

    def _reopen(self) -> None:
        self.stream.close()
        self.stream = self._opened()

    def _opened(self) -> PyAVStream:
        return PyAVStream(self._source, name=self._name, thread_count=self._thread_count)
