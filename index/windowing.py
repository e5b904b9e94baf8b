"""How videos are cut into the segments that a search can find."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

Segments = Literal["windows", "shots", "long-clip"]
MomentVectors = Literal["alone", "pass"]
_OF_WINDOWS = ("segments", "window_seconds", "stride_seconds")


@dataclass(frozen=True, kw_only=True)
class Windowing:
    """How a video is cut into segments."""

    window_seconds: float | None = 8.0
    """Length of a segment in seconds, for shots and long-clip the longest; None means no limit,
    which makes the whole video one window."""
    stride_seconds: float | None = None
    """Of windows: seconds from one start to the next; None means no overlap and no gap."""
    segments: Segments = "windows"
    """windows of one length; shots, from cut to cut; long-clip, stretches of like frames, found in
    one pass of the encoder over long clips."""
    shortest_seconds: float = 1.0
    """Of shots and long-clip: no segment is shorter, but for a shorter video."""
    shot_threshold: float = 2.0
    """Of shots: how many times its neighbours' a cut's change has to be; lower cuts more often."""
    change_penalty: float = 8.0
    """Of long-clip: what one more segment must explain, in the frames' usual changes; lower cuts
    more often."""
    moment_vectors: MomentVectors = "alone"
    """Of long-clip: alone, each moment's frames once more, as a clip of the length that the model
    was trained on; pass, what the one pass gave: half the work, for models of long clips."""
    clip_frames: int = 64
    """Of long-clip: the most frames in one pass of the encoder; where there are very many, it
    works piece by piece, and keeps the rest in temporary files."""
    frames_per_second: float = 2.0
    """Of long-clip: frames looked at."""

    def __post_init__(self) -> None:
        for name in ("window_seconds", "stride_seconds", "shortest_seconds", "frames_per_second"):
            seconds = getattr(self, name)
            if seconds is not None and not (math.isfinite(seconds) and seconds > 0):
                raise ValueError(f"{name} is {seconds}; give a number of seconds above 0")
        for name in ("shot_threshold", "change_penalty"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise ValueError(f"{name} is {getattr(self, name)}; give a number above 0")
        for name, allowed in (("segments", Segments), ("moment_vectors", MomentVectors)):
            if getattr(self, name) not in get_args(allowed):
                choices = ", ".join(get_args(allowed))
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {choices}")
        if self.clip_frames < 2:
            raise ValueError(f"clip_frames is {self.clip_frames}; give at least 2")
        self._check_fit()

    def _check_fit(self) -> None:
        if self.segments != "windows" and self.stride_seconds is not None:
            raise ValueError(
                f"stride_seconds is {self.stride_seconds}, but {self.segments} follow one another "
                "without overlap: leave the stride out, or cut into windows"
            )
        if self.window_seconds is None and self.stride_seconds is not None:
            raise ValueError(
                f"stride_seconds is {self.stride_seconds} without a window_seconds; "
                "a whole video is one segment, so leave the stride out"
            )
        longest = self.window_seconds
        if self.segments != "windows" and longest is not None and longest < self.shortest_seconds:
            raise ValueError(
                f"window_seconds, the longest segment, is {longest}, and shortest_seconds "
                f"{self.shortest_seconds}; give a larger window_seconds"
            )

    @property
    def step_seconds(self) -> float | None:
        """Of windows: the stride with its default filled in; None for whole videos."""
        return self.window_seconds if self.stride_seconds is None else self.stride_seconds

    def __str__(self) -> str:
        """What decides the segments, in a few words."""
        if self.segments == "windows":
            if self.window_seconds is None:
                return "whole videos"
            return f"windows of {self.window_seconds:g} s every {self.step_seconds:g} s"
        plain = Windowing()
        told = [
            f"{field.name} {getattr(self, field.name)}"
            for field in fields(self)
            if field.name != "segments" and getattr(self, field.name) != getattr(plain, field.name)
        ]
        return " with ".join([self.segments, *([", ".join(told)] if told else [])])

    def as_plain(self) -> dict[str, Any]:
        """What a manifest keeps; windows are kept as earlier versions kept them."""
        values = asdict(self)
        if self.segments == "windows":
            return {name: values[name] for name in _OF_WINDOWS if name != "segments"}
        return values


def windowing_from_plain(values: Mapping[str, Any]) -> Windowing:
    """The way back from `as_plain`; raises ValueError, KeyError or TypeError if it is none."""
    known = {field.name for field in fields(Windowing)}
    if unknown := sorted(set(values) - known):
        raise ValueError(f"windowing has unknown fields: {', '.join(unknown)}")
    # Named, for a manifest without it is damaged, not one with the default.
    return Windowing(window_seconds=values["window_seconds"], **_others(values))


def _others(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name != "window_seconds"}
