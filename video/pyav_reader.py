"""Frames of a video through PyAV: exact, and without decoding what no wanted frame needs."""

import itertools
import math
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

import av
import torch
from av.video.reformatter import VideoReformatter
from torch import Tensor

from reelscan.video.errors import VideoError
from reelscan.video.orientation import Orientation, orientation_of
from reelscan.video.packet_run import PacketRun
from reelscan.video.pyav_stream import PyAVStream
from reelscan.video.source import MAX_PIXELS, VideoSource
from reelscan.video.timeline import Timeline, TimelineMismatchError


class PyAVReader:
    """One video, as `reader.FrameReader` says.

    The timeline comes from the packets. Every decoded frame is checked against it, so frames are
    those of decoding all packets in sequence, or TimelineMismatchError is raised.
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
        self.name = name
        self._run = PacketRun(
            source,
            name=name,
            thread_count=thread_count,
            start_seconds=start_seconds,
            end_seconds=end_seconds,
        )
        self._reformatter = VideoReformatter()
        self._orientation: Orientation | None = None
        self._is_recounted = False
        try:
            if self._run.table.is_trustworthy:
                self.timeline = self._run.timeline()
            else:
                self.recount()
        except BaseException:
            self.close()
            raise

    @property
    def failure(self) -> VideoError | None:
        return self._run.table.failure

    def frames_at(self, ordinals: Sequence[int]) -> Iterator[Tensor]:
        chosen = self._in_sequence(ordinals) if self._is_recounted else self._skipping(ordinals)
        for frame in chosen:
            yield self._picture(frame)

    def recount(self) -> None:
        """Decode everything once for the true frames; from now on nothing is skipped."""
        self._run.widen()
        pts = [frame.pts for frame in self._all_frames()]
        if not pts:
            raise VideoError(self.name, "holds no video frames")
        self.timeline = _timeline_of(pts, self._run.stream)
        self._is_recounted = True

    @property
    def codec_name(self) -> str:
        """FFmpeg's name of the format, such as "h264"."""
        return self._run.stream.codec_name

    @property
    def orientation(self) -> Orientation:
        """How pictures are turned upright; known once a frame was decoded."""
        assert self._orientation is not None
        return self._orientation

    def close(self) -> None:
        self._run.close()

    def _skipping(self, ordinals: Sequence[int]) -> Iterator[av.VideoFrame]:
        """Decode in sequence, but go on at a keyframe where one lies before the next frame."""
        table, feed = self._run.table, _Feed(self._run)
        has_skipped, leading_pts, expected = self._run.starts_midway, table.keyframe_pts[0], 0
        for ordinal in ordinals:
            place, keyframe_pts = table.keyframe_for(ordinal)
            if place > feed.place:
                feed.skip_to(place)
                has_skipped, leading_pts = True, keyframe_pts
                expected = table.ordinal_of(keyframe_pts)
            while expected <= ordinal:
                frame = self._next(feed, may_be_incomplete=has_skipped)
                # Frames shown before their keyframe lack the ones that were skipped.
                if has_skipped and frame.pts is not None and frame.pts < leading_pts:
                    continue
                if frame.pts != table.shown[expected]:
                    raise TimelineMismatchError
                expected += 1
            if has_skipped and frame.is_corrupt:
                raise TimelineMismatchError
            yield frame

    def _next(self, feed: "_Feed", *, may_be_incomplete: bool) -> av.VideoFrame:
        try:
            frame = feed.next_frame()
        except VideoError:
            if may_be_incomplete:
                raise TimelineMismatchError from None
            raise
        if frame is None:
            raise TimelineMismatchError
        return frame

    def _in_sequence(self, ordinals: Sequence[int]) -> Iterator[av.VideoFrame]:
        frames = enumerate(self._all_frames())
        for ordinal in ordinals:
            wanted = (frame for place, frame in frames if place == ordinal)
            frame = next(wanted, None)
            if frame is None:
                raise VideoError(self.name, "gave fewer frames when it was decoded again")
            yield frame

    def _all_frames(self) -> Iterator[av.VideoFrame]:
        feed = _Feed(self._run)
        while (frame := feed.next_frame()) is not None:
            yield frame

    def _picture(self, frame: av.VideoFrame) -> Tensor:
        """RGB [3, H, W] uint8, upright."""
        if frame.width * frame.height > MAX_PIXELS:
            raise VideoError(
                self.name,
                f"pictures of {frame.width} x {frame.height} exceed {MAX_PIXELS} pixels",
            )
        if self._orientation is None:
            self._orientation = orientation_of(frame)
        try:
            return self._orientation.apply(self._colours(frame))
        except av.FFmpegError as error:
            reason = f"its {frame.format.name} pictures cannot be converted: {error.strerror}"
            raise VideoError(self.name, reason) from error

    def _colours(self, frame: av.VideoFrame) -> Tensor:
        """RGB [3, H, W] uint8 as stored; raises av.FFmpegError."""
        # One reformatter for all frames, and one thread: setting up either anew for each frame
        # costs more than the conversion. Planes of one colour each need no transposing, but of
        # widths that are no multiple of 16 FFmpeg leaves the last columns of planes unwritten.
        is_planar = frame.width % 16 == 0
        form = "gbrp" if is_planar else "rgb24"
        converted = self._reformatter.reformat(frame, format=form, threads=1)
        height, width = converted.height, converted.width
        rows = [
            torch.frombuffer(plane, dtype=torch.uint8)[: height * plane.line_size].view(
                height, plane.line_size
            )
            for plane in converted.planes
        ]
        if is_planar:
            green, blue, red = (plane[:, :width] for plane in rows)
            return torch.stack((red, green, blue))
        return rows[0][:, : 3 * width].reshape(height, width, 3).permute(2, 0, 1).contiguous()


class _Feed:
    """Gives packets to the decoder and takes frames from it."""

    def __init__(self, run: PacketRun) -> None:
        self._packets = run.packets()
        self._stream = run.stream
        self._stream.flush()
        self._ready: deque[av.VideoFrame] = deque()
        self._has_ended = False
        self.place = 0
        """Packets taken so far"""

    def skip_to(self, place: int) -> None:
        """Drop the packets before `place`, a keyframe's."""
        next(itertools.islice(self._packets, place - self.place, place - self.place), None)
        self.place = place
        self._ready.clear()
        self._stream.flush()

    def next_frame(self) -> av.VideoFrame | None:
        """In the order they are shown; None at the end."""
        while not self._ready and not self._has_ended:
            packet = next(self._packets, None)
            self._has_ended = packet is None
            self.place += 1
            self._ready.extend(self._stream.decode(packet))
        return self._ready.popleft() if self._ready else None


def _timeline_of(pts: Sequence[int | None], stream: PyAVStream) -> Timeline:
    """Of frames in the order they came; without a time for each they are spread evenly."""
    known = sorted({one for one in pts if one is not None})
    if len(known) == len(pts):
        seconds = [float((one - known[0]) * stream.time_base) for one in known]
    else:
        seconds = [float(place / stream.header_fps) for place in range(len(pts))]
    gap = seconds[-1] / (len(seconds) - 1) if seconds[-1] > 0 else float(1 / stream.header_fps)
    return Timeline(times_seconds=array("d", seconds), end_seconds=seconds[-1] + gap)
