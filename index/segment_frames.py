"""Which frames stand for a segment: the one place that reads clips as the encoder wants them."""

import os
from collections.abc import Iterator

from reelscan.index.manifest import Windowing
from reelscan.models.preprocessing import Preprocessing
from reelscan.video.decode import Clip, read_clip
from reelscan.video.probe import probe
from reelscan.video.windows import Window, stream_windows

VideoPath = str | os.PathLike[str]


def read_segments(
    path: VideoPath, *, windowing: Windowing, preprocessing: Preprocessing, name: str
) -> Iterator[Window]:
    """All segments of a video in order, in one pass; raises VideoError."""
    if windowing.window_seconds is None:
        duration_seconds = probe(path, name=name).duration_seconds
        clip = read_whole(path, preprocessing=preprocessing, name=name)
        yield Window(clip=clip, start_seconds=0.0, end_seconds=duration_seconds)
        return
    yield from stream_windows(
        path,
        window_seconds=windowing.window_seconds,
        stride_seconds=windowing.stride_seconds or windowing.window_seconds,
        frames=preprocessing.frames,
        frame_size=preprocessing.size,
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.antialias,
        name=name,
    )


def read_segment(
    path: VideoPath,
    *,
    start_seconds: float,
    end_seconds: float,
    windowing: Windowing,
    preprocessing: Preprocessing,
    name: str,
) -> Clip:
    """One segment again, with the frames that `read_segments` gave; raises VideoError."""
    if windowing.window_seconds is None:
        return read_whole(path, preprocessing=preprocessing, name=name)
    return read_clip(
        path,
        frames=preprocessing.frames,
        sampling="seconds",
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        frame_size=preprocessing.size,
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.antialias,
        name=name,
    )


def read_whole(
    path: VideoPath, *, preprocessing: Preprocessing, name: str, end_seconds: float | None = None
) -> Clip:
    """The frames of a whole video, or of its beginning; raises VideoError."""
    return read_clip(
        path,
        frames=preprocessing.frames,
        sampling=preprocessing.sampling,
        end_seconds=end_seconds,
        frame_size=preprocessing.size,
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.antialias,
        name=name,
    )
