"""Where a video cuts from one shot to the next.

A cut is a frame that differs much from the one before, in itself and against its neighbours, so
that fast motion and shaking cameras are none. Dissolves are not found. Axes: H x W pixels.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from reelscan.video.reader import FrameReader

_ROWS, _COLUMNS = 18, 32
_NEIGHBOURS = 2
_LEAST_DIFFERENCE = 10.0


def shot_spans(
    reader: FrameReader,
    *,
    threshold: float = 2.0,
    shortest_seconds: float = 1.0,
    longest_seconds: float | None = None,
) -> list[tuple[float, float]]:
    """(start, end) of the shots in seconds, without gaps, by decoding every frame.

    `threshold`: how many times its neighbours' a cut's difference has to be; lower finds more.
    A cut within `shortest_seconds` of the last one, or of the end, is passed over; shots longer
    than `longest_seconds` are cut into equal parts.
    """
    times, end = reader.timeline.times_seconds, reader.timeline.end_seconds
    pictures = reader.frames_at(range(len(times)))
    differences = np.fromiter(_differences(pictures), np.float64)
    starts = [0.0]
    for ordinal in find_cuts(differences, threshold=threshold):
        if times[ordinal] - starts[-1] >= shortest_seconds <= end - times[ordinal]:
            starts.append(times[ordinal])
    parts = [part for span in pairwise([*starts, end]) for part in _parts(*span, longest_seconds)]
    return parts


def find_cuts(differences: NDArray[np.float64], *, threshold: float) -> list[int]:
    """The frames that begin a shot, from each frame's difference to the one before, in 0 to 255."""
    cuts = []
    for ordinal in np.flatnonzero(differences >= _LEAST_DIFFERENCE).tolist():
        around = differences[max(1, ordinal - _NEIGHBOURS) : ordinal + _NEIGHBOURS + 1]
        others = (around.sum() - differences[ordinal]) / max(1, len(around) - 1)
        if differences[ordinal] >= threshold * others:
            cuts.append(ordinal)
    return cuts


def _differences(frames_uint8: Iterator[Tensor]) -> Iterator[float]:
    """Mean difference of each frame's colours to the one before; 0 of the first."""
    before: Tensor | None = None
    for frame in frames_uint8:
        small = _small(frame)
        yield 0.0 if before is None else float((small - before).abs().mean())
        before = small


def _small(frame: Tensor) -> Tensor:
    """[3, H, W] -> float [3, 18, 32]: averages, of every few pixels of large frames."""
    step = max(1, min(frame.shape[1] // (4 * _ROWS), frame.shape[2] // (4 * _COLUMNS)))
    return adaptive_avg_pool2d(frame[:, ::step, ::step].float(), (_ROWS, _COLUMNS))


def _parts(
    start: float, end: float, longest_seconds: float | None
) -> Sequence[tuple[float, float]]:
    count = 1 if longest_seconds is None else max(1, math.ceil((end - start) / longest_seconds))
    bounds = [start + (end - start) * part / count for part in range(count)] + [end]
    return list(pairwise(bounds))
