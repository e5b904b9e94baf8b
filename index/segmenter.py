"""From a video's windows to the segments that are stored.

B clips, T frames, S pixels, E embedding width.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelscan.index.change_points import find_moments
from reelscan.index.frame_codes import pack_frames
from reelscan.index.segments import NewSegment
from reelscan.index.windowing import Windowing
from reelscan.models.encoder import Encoder, FrameEncoder
from reelscan.video.sampling import times_at
from reelscan.video.windows import Window


class Segmenter(Protocol):
    """One way to make segments."""

    windows_at_once: int
    """How many are worth encoding together."""

    def segments(self, windows: Sequence[Window]) -> list[list[NewSegment]]:
        """Those of each window."""


def make_segmenter(encoder: Encoder, windowing: Windowing, *, batch_size: int) -> Segmenter:
    """Raises ValueError if the encoder cannot do it."""
    if windowing.segments != "long-clip":
        return WindowSegmenter(encoder, batch_size=batch_size)
    if not isinstance(encoder, FrameEncoder):
        raise ValueError(
            f"{type(encoder).__name__} gives no vectors of frames, so it cannot read long clips: "
            "cut into windows or shots (segments)"
        )
    return LongClipSegmenter(encoder, windowing, batch_size=batch_size)


class WindowSegmenter:
    """Each window is a segment."""

    def __init__(self, encoder: Encoder, *, batch_size: int) -> None:
        self.windows_at_once = batch_size
        self._encoder = encoder

    def segments(self, windows: Sequence[Window]) -> list[list[NewSegment]]:
        clips = torch.stack([window.clip.frames_uint8 for window in windows])
        return [
            [_segment(window.start_seconds, window.end_seconds, of_frames)]
            for window, of_frames in zip(windows, _frames(self._encoder, clips), strict=True)
        ]


class LongClipSegmenter:
    """Segments are the stretches of a long clip whose frames are alike."""

    def __init__(self, encoder: FrameEncoder, windowing: Windowing, *, batch_size: int) -> None:
        frames = encoder.preprocessing.frames
        self.windows_at_once = max(1, batch_size * frames // windowing.clip_frames)
        self._batch_size = batch_size
        self._encoder = encoder
        self._windowing = windowing

    def segments(self, windows: Sequence[Window]) -> list[list[NewSegment]]:
        found: list[list[NewSegment]] = []
        for _, alike in groupby(windows, key=lambda window: len(window.clip.frames_uint8)):
            some = list(alike)
            of_windows = [window.clip.frames_uint8 for window in some]
            # A clip alone is not copied, for it may be larger than the memory.
            clips = torch.stack(of_windows) if len(some) > 1 else of_windows[0][None]
            of_frames = self._encoder.encode_frames(clips)
            if of_frames.shape[1] != clips.shape[1]:
                raise ValueError(
                    "this model pools whole clips, so it has no vectors of frames and cannot read "
                    "long clips: cut into windows or shots (segments)"
                )
            found += [
                self._moments(window, vectors.numpy())
                for window, vectors in zip(some, of_frames, strict=True)
            ]
        return found

    def _moments(self, window: Window, vectors: NDArray[np.float32]) -> list[NewSegment]:
        seconds = (window.end_seconds - window.start_seconds) / len(vectors)
        longest = self._windowing.window_seconds
        moments = find_moments(
            vectors,
            penalty=self._windowing.change_penalty,
            shortest=max(1, round(self._windowing.shortest_seconds / seconds)),
            longest=None if longest is None else max(1, int(longest / seconds + 1e-6)),
        )
        if self._windowing.moment_vectors == "pass":
            of_moments = [vectors[first:end] for first, end in moments]
        else:
            of_moments = self._encoded_alone(window.clip.frames_uint8, moments)
        return [
            _segment(
                window.start_seconds + first * seconds,
                window.start_seconds + end * seconds,
                of_frames,
            )
            for (first, end), of_frames in zip(moments, of_moments, strict=True)
        ]

    def _encoded_alone(
        self, frames_uint8: Tensor, moments: Sequence[tuple[int, int]]
    ) -> list[NDArray[np.float32]]:
        """The frames [T, E] of moments (first, last + 1) as clips of the model's own length."""
        places = [
            [int(time) for time in times_at(first, end, self._encoder.preprocessing.frames)]
            for first, end in moments
        ]
        vectors: list[NDArray[np.float32]] = []
        for start in range(0, len(places), self._batch_size):
            clips = frames_uint8[torch.tensor(places[start : start + self._batch_size])]
            vectors += list(_frames(self._encoder, clips))
        return vectors


def _frames(encoder: Encoder, clips: Tensor) -> NDArray[np.float32]:
    """[B, T, E]; or [B, 1, E], of whole clips, from an encoder that knows no frames."""
    if isinstance(encoder, FrameEncoder):
        vectors = encoder.encode_frames(clips).numpy()
    else:
        vectors = encoder.encode_video(clips)[:, None].numpy()
    assert vectors.shape[::2] == (len(clips), encoder.embed_dim), f"it gave {vectors.shape}"
    return vectors


def _segment(start: float, end: float, of_frames: NDArray[np.float32]) -> NewSegment:
    return NewSegment(
        start_seconds=start,
        end_seconds=end,
        # As everywhere, the mean of vectors of length 1 is not brought to length 1 again.
        vector=of_frames.mean(axis=0),
        frame_codes=pack_frames(of_frames),
    )
