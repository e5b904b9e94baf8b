"""Which frames stand for a segment: the one place that reads clips as the encoder wants them."""

import math
import os
from collections.abc import Iterator
from functools import partial
from itertools import pairwise

from reelscan.index.windowing import Windowing
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.roomy_tensor import roomy_tensor
from reelscan.video.decode import Clip, read_clip
from reelscan.video.probe import probe
from reelscan.video.reader import FrameReader
from reelscan.video.shots import shot_spans
from reelscan.video.windows import Span, Window, stream_spans, stream_windows

VideoPath = str | os.PathLike[str]


def read_segments(
    path: VideoPath, *, windowing: Windowing, preprocessing: Preprocessing, name: str
) -> Iterator[Window]:
    """All windows of a video in order; raises VideoError.

    They are its segments, but for long clips, which `segmenter.py` divides. Shots take a second
    pass of decoding.
    """
    if windowing.segments != "windows":
        yield from stream_spans(
            path,
            partial(
                _shots if windowing.segments == "shots" else _long_clips, windowing, preprocessing
            ),
            frame_size=preprocessing.size,
            interpolation=preprocessing.interpolation,
            antialias=preprocessing.antialias,
            name=name,
            allocate=roomy_tensor,
        )
        return
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
    if windowing.segments == "windows" and windowing.window_seconds is None:
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


def read_example(
    path: VideoPath,
    *,
    preprocessing: Preprocessing,
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    is_picture: bool = False,
) -> Clip:
    """What is shown of a file that moments should be like; a picture is one frame.

    Raises VideoError.
    """
    return read_clip(
        path,
        frames=1 if is_picture else preprocessing.frames,
        sampling=preprocessing.sampling,
        start_seconds=start_seconds,
        end_seconds=end_seconds,
        frame_size=preprocessing.size,
        interpolation=preprocessing.interpolation,
        antialias=preprocessing.antialias,
    )


def _shots(windowing: Windowing, preprocessing: Preprocessing, reader: FrameReader) -> list[Span]:
    shots = shot_spans(
        reader,
        threshold=windowing.shot_threshold,
        shortest_seconds=windowing.shortest_seconds,
        longest_seconds=windowing.window_seconds,
    )
    return [
        Span(start_seconds=start, end_seconds=end, frames=preprocessing.frames)
        for start, end in shots
    ]


def _long_clips(
    windowing: Windowing, preprocessing: Preprocessing, reader: FrameReader
) -> list[Span]:
    """Clips of about as many frames each; few more than asked for where a video is short."""
    timeline = reader.timeline
    # Damaged times can leave gaps of days, in which there is nothing to see.
    frames = min(
        round(timeline.end_seconds * windowing.frames_per_second), len(timeline.times_seconds)
    )
    frames = max(frames, preprocessing.frames)
    clips = math.ceil(frames / windowing.clip_frames)
    bounds = [round(frames * clip / clips) for clip in range(clips + 1)]
    seconds = timeline.end_seconds / frames
    return [
        Span(start_seconds=first * seconds, end_seconds=end * seconds, frames=end - first)
        for first, end in pairwise(bounds)
    ]
