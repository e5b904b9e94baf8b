"""What the encoded packets of a stream tell about its frames, without decoding them.

Headers are not trusted: counts and times come from the packets themselves. Times here are pts,
whole numbers of the stream's time base.
"""

import itertools
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import TypeAlias

import av

from reelscan.video.errors import VideoError
from reelscan.video.timeline import Timeline

KEPT_BYTES = 16 << 20
"""Packets are kept in memory for decoding if they hold at most this many bytes together."""

_HEAD_FRAMES = 32

VideoPacket: TypeAlias = "av.Packet[av.VideoStream]"


@dataclass(frozen=True)
class PacketTable:
    """The packets of one stream in decoding order, beginning with a keyframe."""

    count: int
    """packets"""
    shown: "array[int]"
    """pts of the frames that are shown, ascending"""
    keyframes: "array[int]"
    """places of keyframes among the packets, ascending"""
    keyframe_pts: "array[int]"
    """their pts, ascending as well"""
    end_pts: int | None
    """when the last frame stops being shown; None if packets behind these were left out"""
    is_trustworthy: bool
    """False if packets lack times or share them, so that only decoding tells the frames"""
    packets: tuple[VideoPacket, ...] | None
    """the packets, if they are few enough to keep"""
    failure: VideoError | None
    """what made reading stop before the end"""

    def keyframe_for(self, ordinal: int) -> tuple[int, int]:
        """Where decoding has to begin for a shown frame: (place of the packet, its pts)."""
        place = bisect_right(self.keyframe_pts, self.shown[ordinal]) - 1
        return self.keyframes[place], self.keyframe_pts[place]

    def ordinal_of(self, pts: int) -> int:
        """The first shown frame at or behind `pts`."""
        return bisect_left(self.shown, pts)

    def timeline(self, time_base: Fraction, *, origin_pts: int) -> Timeline:
        """In seconds from `origin_pts`, the first frame of the video."""

        def seconds(pts: int) -> float:
            return (pts - origin_pts) * time_base.numerator / time_base.denominator

        return Timeline(
            times_seconds=array("d", map(seconds, self.shown)),
            end_seconds=math.inf if self.end_pts is None else seconds(self.end_pts),
        )


def packets_with_data(packets: Iterable[VideoPacket]) -> Iterator[VideoPacket]:
    """Those worth decoding: from the first keyframe on, neither empty nor cut off by the end.

    A decoder takes an empty packet for the end of the stream.
    """
    filled = (packet for packet in packets if packet.size)
    latest = None
    for packet in itertools.dropwhile(lambda packet: not packet.is_keyframe, filled):
        if latest is not None:
            yield latest
        latest = packet
    if latest is not None and not latest.is_corrupt:
        yield latest


def first_shown_pts(packets: Iterable[VideoPacket]) -> int | None:
    """What a table of all packets has as its first `shown`; None without times."""
    timed = ((packet.pts, packet) for packet in packets if packet.pts is not None)
    first_pts, first = next(timed, (0, None))
    if first is None:
        return None
    following = itertools.chain([(first_pts, first)], timed)
    shown = (pts for pts, one in following if pts >= first_pts and not one.is_discard)
    return min(itertools.islice(shown, _HEAD_FRAMES), default=None)


def table_of(
    packets: Iterable[VideoPacket], *, frame_pts: Fraction, stop_pts: float = math.inf
) -> PacketTable:
    """Read all packets, or those up to the first one that is decoded after `stop_pts`.

    `frame_pts`: how long a frame lasts by the header's frame rate, used if there is only one.
    """
    notes, failure = _Notes(), None
    try:
        for packet in packets:
            # No frame is shown before it is decoded, so none up to `stop_pts` can follow.
            if packet.dts is not None and packet.dts > stop_pts:
                return notes.table(end_pts=None, failure=None)
            notes.add(packet)
    except VideoError as error:
        failure = error
    return notes.table(end_pts=notes.end_pts(frame_pts), failure=failure)


class _Notes:
    """Collects a table packet by packet."""

    def __init__(self) -> None:
        self._shown, self._keyframes, self._keyframe_pts = array("q"), array("q"), array("q")
        self._kept: list[VideoPacket] = []
        self._count = self._bytes = 0
        self._last_pts = self._last_duration = -1
        self._has_all_pts = True

    def add(self, packet: VideoPacket) -> None:
        if packet.pts is None:
            self._has_all_pts = False
        else:
            self._add_timed(packet, packet.pts)
        self._count += 1
        self._bytes += packet.size
        if self._bytes <= KEPT_BYTES:
            self._kept.append(packet)
        else:
            self._kept.clear()

    def _add_timed(self, packet: VideoPacket, pts: int) -> None:
        if packet.is_keyframe and (not self._keyframe_pts or pts > self._keyframe_pts[-1]):
            self._keyframes.append(self._count)
            self._keyframe_pts.append(pts)
        # Frames shown before the first keyframe need others that are missing.
        if packet.is_discard or not self._keyframe_pts or pts < self._keyframe_pts[0]:
            return
        if not self._shown or pts > self._last_pts:
            self._last_pts, self._last_duration = pts, packet.duration or 0
        self._shown.append(pts)

    def end_pts(self, frame_pts: Fraction) -> int | None:
        """When the last frame ends: by its own duration, else by the mean one."""
        if not self._shown:
            return None
        if self._last_duration > 0:
            return self._last_pts + self._last_duration
        gaps = len(self._shown) - 1
        mean = (self._last_pts - min(self._shown)) // gaps if gaps else round(frame_pts)
        return self._last_pts + max(1, mean)

    def table(self, *, end_pts: int | None, failure: VideoError | None) -> PacketTable:
        shown = array("q", sorted(self._shown))
        has_shared_pts = any(one == other for one, other in itertools.pairwise(shown))
        return PacketTable(
            count=self._count,
            shown=shown,
            keyframes=self._keyframes,
            keyframe_pts=self._keyframe_pts,
            end_pts=end_pts,
            is_trustworthy=self._has_all_pts and not has_shared_pts,
            packets=tuple(self._kept) if self._bytes <= KEPT_BYTES else None,
            failure=failure,
        )
