"""A video of any length as a sequence of short clips, decoded once."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from reelscan.video.decode import Clip, Resize, check_one_size, resizing
from reelscan.video.reader import Decoder, FrameReader, check_decoder, open_reader
from reelscan.video.sampling import times_at
from reelscan.video.source import VideoSource
from reelscan.video.timeline import Timeline, TimelineMismatchError
from reelscan.video.transforms import Interpolation


@dataclass(frozen=True)
class Window:
    """A stretch of a video."""

    clip: Clip
    """its frames"""
    start_seconds: float
    """from the first frame of the video"""
    end_seconds: float
    """from the first frame of the video"""


@dataclass(frozen=True, kw_only=True)
class Span:
    """A stretch that is wanted of a video, and how many frames of it."""

    start_seconds: float
    end_seconds: float
    frames: int


ChooseSpans = Callable[[FrameReader], Sequence[Span]]
"""Spans in the order of their starts; may decode, and is asked again if the timeline was wrong."""

Allocate = Callable[[tuple[int, ...], torch.dtype], Tensor]
"""A tensor of this shape and dtype to be filled."""


def _in_memory(shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return torch.empty(shape, dtype=dtype)


def stream_windows(
    source: VideoSource,
    *,
    window_seconds: float,
    stride_seconds: float,
    frames: int,
    frame_size: int | None,
    interpolation: Interpolation = "bicubic",
    antialias: bool = False,
    decoder: Decoder = "auto",
    thread_count: int = 1,
    name: str | None = None,
) -> Iterator[Window]:
    """Windows of `window_seconds` that begin every `stride_seconds`, in one pass of decoding.

    Each equals `read_clip(..., sampling="seconds")` from its start to its end. The last one ends
    with the video, so it may be shorter; a window follows only if frames are left that begin at or
    behind the end of the one before. Windows in which no frame begins, because a picture stands
    still for longer, are left out. Only resized frames of windows not yet handed out are held,
    besides the times of all frames.

    Arguments are as in `read_clip`; they are checked at once, the video is opened with the first
    window. If decoding fails midway, the windows before come first, then the VideoError.
    """
    for argument, seconds in (("window", window_seconds), ("stride", stride_seconds)):
        if not 0 < seconds < math.inf:
            raise ValueError(f"{argument}_seconds is {seconds}; give a number above 0")
    if frames < 1:
        raise ValueError(f"frames is {frames}; give at least 1")
    return stream_spans(
        source,
        lambda reader: _spans(reader.timeline, window_seconds, stride_seconds, frames),
        frame_size=frame_size,
        interpolation=interpolation,
        antialias=antialias,
        decoder=decoder,
        thread_count=thread_count,
        name=name,
    )


def stream_spans(
    source: VideoSource,
    choose: ChooseSpans,
    *,
    frame_size: int | None,
    interpolation: Interpolation = "bicubic",
    antialias: bool = False,
    decoder: Decoder = "auto",
    thread_count: int = 1,
    name: str | None = None,
    allocate: Allocate = _in_memory,
) -> Iterator[Window]:
    """The spans that `choose` names, in one pass of decoding; otherwise as `stream_windows`.

    `allocate` makes the room for each window's frames. Beside it only those frames are held that
    the next window needs too.
    """
    check_decoder(decoder)
    resized = resizing(frame_size, interpolation, antialias)

    def windows() -> Iterator[Window]:
        with open_reader(source, decoder=decoder, name=name, thread_count=thread_count) as reader:
            yield from _windows(reader, choose, resized, allocate)

    return windows()


def _windows(
    reader: FrameReader, choose: ChooseSpans, resized: Resize, allocate: Allocate
) -> Iterator[Window]:
    handed_out = 0
    while True:
        try:
            for window in _decoded(reader, choose(reader)[handed_out:], resized, allocate):
                yield window
                handed_out += 1
            break
        except TimelineMismatchError:
            reader.recount()
    if reader.failure is not None:
        raise reader.failure


def _spans(
    timeline: Timeline, window_seconds: float, stride_seconds: float, frames: int
) -> list[Span]:
    times, place = timeline.times_seconds, 0
    spans: list[Span] = []
    while True:
        start = place * stride_seconds
        begun = bisect_left(times, start)
        if begun == len(times) or (spans and times[-1] < spans[-1].end_seconds):
            return spans
        if times[begun] < start + window_seconds:
            end = min(start + window_seconds, timeline.end_seconds)
            spans.append(Span(start_seconds=start, end_seconds=end, frames=frames))
            place += 1
        else:
            # Damaged times can leave gaps of days, so they are not walked through.
            place = max(place + 1, math.floor((times[begun] - window_seconds) / stride_seconds))


def _decoded(
    reader: FrameReader, spans: Sequence[Span], resized: Resize, allocate: Allocate
) -> Iterator[Window]:
    timeline = reader.timeline
    choices = [
        [
            timeline.ordinal_at(time)
            for time in times_at(span.start_seconds, span.end_seconds, span.frames)
        ]
        for span in spans
    ]
    wanted = sorted({ordinal for choice in choices for ordinal in choice})
    pictures = zip(wanted, map(resized, reader.frames_at(wanted)), strict=True)
    held: dict[int, Tensor] = {}
    # Windows begin later and later, so what lies before the next one is not needed again.
    needed_from = [*(ordinals[0] for ordinals in choices[1:]), len(timeline.times_seconds)]
    for span, ordinals, needed in zip(spans, choices, needed_from, strict=True):
        frames: Tensor | None = None
        for place, ordinal in enumerate(ordinals):
            while ordinal not in held:
                number, picture = next(pictures)
                held[number] = picture
            if frames is None:
                shape = (len(ordinals), *held[ordinal].shape)
                frames = allocate(shape, held[ordinal].dtype)
            check_one_size([frames[0], held[ordinal]], reader.name)
            frames[place] = held[ordinal]
            held = {n: kept for n, kept in held.items() if n >= min(ordinal, needed)}
        assert frames is not None, "a span has at least one frame"
        times = tuple(timeline.times_seconds[ordinal] for ordinal in ordinals)
        clip = Clip(frames_uint8=frames, times_seconds=times)
        yield Window(clip, span.start_seconds, span.end_seconds)
