"""Chosen frames of a video.

Axes: T frames, H x W pixels; colours are RGB. Times are seconds from the first frame of the video.
"""

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from reelscan.video.errors import VideoError
from reelscan.video.reader import Decoder, FrameReader, check_decoder, open_reader
from reelscan.video.sampling import fps_indices, middle_indices, random_indices, times_at
from reelscan.video.source import VideoSource
from reelscan.video.timeline import Timeline, TimelineMismatchError
from reelscan.video.transforms import Interpolation, resize

Resize = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Clip:
    """Frames with their times."""

    frames_uint8: Tensor
    """[T, 3, H, W]"""
    times_seconds: tuple[float, ...]
    """when each frame begins to be shown"""


def read_clip(
    source: VideoSource,
    *,
    frames: int = 8,
    sampling: str = "middle",
    start_seconds: float | None = None,
    end_seconds: float | None = None,
    frame_size: int | None = None,
    interpolation: Interpolation = "bicubic",
    antialias: bool = False,
    generator: random.Random | torch.Generator | None = None,
    decoder: Decoder = "auto",
    thread_count: int = 1,
    name: str | None = None,
) -> Clip:
    """Decode `frames` frames of a local file or of bytes. An image is a video of one frame.

    `sampling`: "middle" or "random" (by `generator`) of equal parts of the counted frames; "fps2",
    or any other number, for two a second and at most `frames`; "seconds" for what is shown at the
    middles of equal parts of the time. Videos that are too short repeat frames.
    `start_seconds`, `end_seconds`: only frames that begin in [start, end), or the one shown then.
    `frame_size`: side in pixels of square frames; None keeps the size. See `transforms.resize`.
    `name`: what errors call the video.

    Raises VideoError if the video cannot be read or ends before the range begins, ValueError for
    other arguments that are not allowed.
    """
    choice = _Choice(
        sampling=sampling,
        frames=frames,
        start_seconds=0.0 if start_seconds is None else start_seconds,
        end_seconds=math.inf if end_seconds is None else end_seconds,
        generator=generator,
    )
    check_decoder(decoder)
    with open_reader(
        source,
        decoder=decoder,
        name=name,
        thread_count=thread_count,
        start_seconds=choice.start_seconds,
        end_seconds=choice.end_seconds,
    ) as reader:
        return _read(reader, choice.ordinals, resizing(frame_size, interpolation, antialias))


def read_frame(
    source: VideoSource,
    time_seconds: float,
    *,
    frame_size: int | None = None,
    decoder: Decoder = "auto",
    name: str | None = None,
) -> Tensor:
    """uint8 [3, H, W]: the last frame that begins at or before `time_seconds`.

    Arguments and errors are as in `read_clip`.
    """
    if not 0 <= time_seconds < math.inf:
        raise ValueError(f"time_seconds is {time_seconds}; give a number of at least 0")
    check_decoder(decoder)
    with open_reader(
        source,
        decoder=decoder,
        name=name,
        start_seconds=time_seconds,
        end_seconds=time_seconds,
    ) as reader:
        clip = _read(
            reader,
            lambda timeline, _: [timeline.ordinal_at(time_seconds)],
            resizing(frame_size, "bicubic", antialias=False),
        )
    return clip.frames_uint8[0]


def resizing(frame_size: int | None, interpolation: Interpolation, antialias: bool) -> Resize:
    """What is done to each frame as soon as it is decoded, so that few large ones are held."""
    if frame_size is None:
        return lambda frames: frames
    if frame_size < 1:
        raise ValueError(f"frame_size is {frame_size}; give pixels of at least 1, or None")
    return partial(resize, size=frame_size, interpolation=interpolation, antialias=antialias)


def clip_of(pictures: Mapping[int, Tensor], ordinals: Sequence[int], reader: FrameReader) -> Clip:
    """Put together decoded frames ([3, H, W] by ordinal) in the order of `ordinals`."""
    check_one_size([pictures[ordinal] for ordinal in ordinals], reader.name)
    return Clip(
        frames_uint8=torch.stack([pictures[ordinal] for ordinal in ordinals]),
        times_seconds=tuple(reader.timeline.times_seconds[ordinal] for ordinal in ordinals),
    )


def check_one_size(pictures: Sequence[Tensor], name: str) -> None:
    """Raise VideoError unless all are as large: [3, H, W] each."""
    shapes = {tuple(picture.shape[1:]) for picture in pictures}
    if len(shapes) > 1:
        sizes = " and ".join(sorted(f"{width} x {height}" for height, width in shapes))
        raise VideoError(name, f"pictures change between {sizes} pixels; give a frame_size")


def _read(
    reader: FrameReader, choose: Callable[[Timeline, str], list[int]], resized: Resize
) -> Clip:
    if reader.failure is not None:
        raise reader.failure

    def chosen() -> Clip:
        ordinals = choose(reader.timeline, reader.name)
        wanted = sorted(set(ordinals))
        decoded = zip(wanted, reader.frames_at(wanted), strict=True)
        return clip_of({ordinal: resized(frame) for ordinal, frame in decoded}, ordinals, reader)

    try:
        return chosen()
    except TimelineMismatchError:
        reader.recount()
        return chosen()


@dataclass(frozen=True, kw_only=True)
class _Choice:
    """Which frames of a timeline are taken; see `read_clip`."""

    sampling: str
    frames: int
    start_seconds: float
    end_seconds: float
    generator: random.Random | torch.Generator | None

    def __post_init__(self) -> None:
        if self.frames < 1:
            raise ValueError(f"frames is {self.frames}; give at least 1")
        if not 0 <= self.start_seconds < self.end_seconds:
            raise ValueError(
                f"start_seconds is {self.start_seconds}, end_seconds {self.end_seconds}; give "
                "0 <= start < end"
            )
        if self.sampling == "random" and self.generator is None:
            raise ValueError('sampling "random" needs a generator; pass a seeded torch.Generator')
        if self.sampling not in ("middle", "random", "seconds"):
            self._output_fps()

    def ordinals(self, timeline: Timeline, name: str) -> list[int]:
        if self.start_seconds >= timeline.end_seconds:
            raise VideoError(
                name,
                f"start_seconds {self.start_seconds:g} lies behind its end at "
                f"{timeline.end_seconds:g} seconds",
            )
        if self.sampling == "seconds":
            end_seconds = min(self.end_seconds, timeline.end_seconds)
            times = times_at(self.start_seconds, end_seconds, self.frames)
            return [timeline.ordinal_at(time) for time in times]
        span = timeline.span(self.start_seconds, self.end_seconds)
        indices = self._indices(len(span), timeline.fps)
        if not indices:
            raise VideoError(name, f'is too short for sampling "{self.sampling}"; use "middle"')
        return [span[index] for index in indices]

    def _indices(self, frame_count: int, input_fps: float) -> list[int]:
        if self.sampling == "middle":
            return middle_indices(frame_count, self.frames)
        if self.sampling == "random":
            assert self.generator is not None
            return random_indices(frame_count, self.frames, self.generator)
        return fps_indices(
            frame_count,
            input_fps=input_fps,
            output_fps=self._output_fps(),
            max_frames=self.frames,
        )

    def _output_fps(self) -> float:
        try:
            fps = float(self.sampling.removeprefix("fps"))
        except ValueError:
            fps = math.nan
        if not (self.sampling.startswith("fps") and 0 < fps < math.inf):
            raise ValueError(
                f'sampling is "{self.sampling}"; choose "middle", "random", "seconds" or "fps" '
                'with a number, such as "fps2"'
            )
        return fps
