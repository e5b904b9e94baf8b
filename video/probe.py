"""What a video is."""

from contextlib import closing
from dataclasses import dataclass

from reelscan.video.pyav_reader import PyAVReader
from reelscan.video.source import VideoSource, source_name
from reelscan.video.timeline import TimelineMismatchError


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts counted and decoded, not read from headers."""

    name: str
    """what the video is called in messages"""
    width: int
    """pixels as shown, after rotation"""
    height: int
    """pixels as shown, after rotation"""
    duration_seconds: float
    """from the beginning of the first frame to the end of the last"""
    fps: float
    """mean frames per second"""
    frame_count: int
    """frames"""
    codec: str
    """FFmpeg's name of the compression, such as "h264" """
    rotation_degrees: int
    """clockwise turn from stored to shown: 0, 90, 180 or 270"""


def probe(source: VideoSource, *, name: str | None = None) -> VideoInfo:
    """Read all packets, so that counts are true, and decode the first frame.

    Raises VideoError if the video cannot be read.
    """
    called = source_name(source, name)
    with closing(PyAVReader(source, name=called)) as reader:
        if reader.failure is not None:
            raise reader.failure
        try:
            first = next(reader.frames_at([0]))
        except TimelineMismatchError:
            reader.recount()
            first = next(reader.frames_at([0]))
        timeline = reader.timeline
        return VideoInfo(
            name=called,
            width=first.shape[2],
            height=first.shape[1],
            duration_seconds=timeline.end_seconds,
            fps=timeline.fps,
            frame_count=len(timeline.times_seconds),
            codec=reader.codec_name,
            rotation_degrees=reader.orientation.rotation_degrees,
        )
