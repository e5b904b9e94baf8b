"""Which frames of a video are taken: pure functions from counts and times to indices and times.

"middle", "random" and "fps" are the rules of the published VideoMamba evaluation and training.
They return ascending indices; a video shorter than `frames` repeats its last index.
"""

import itertools
import random

import numpy as np
import torch


def middle_indices(frame_count: int, frames: int, *, fix_start: int | None = None) -> list[int]:
    """The middle frame of each of `frames` equal parts.

    With `fix_start` instead the frame that many behind the start of each part; as published it is
    not checked against `frame_count`.
    """
    bounds = _part_bounds(frame_count, frames)
    if fix_start is not None:
        chosen = [start + fix_start for start in bounds[:-1]]
    else:
        chosen = [(low + high - 1) // 2 for low, high in _neighbours(bounds)]
    return _padded(chosen, frames)


def random_indices(
    frame_count: int, frames: int, generator: random.Random | torch.Generator
) -> list[int]:
    """A random frame of each of `frames` equal parts, never its last one (as published).

    Where that leaves a part without a choice: a random choice among all frames.
    """
    draws = _python_generator(generator)
    parts = list(_neighbours(_part_bounds(frame_count, frames)))
    if all(high - low > 1 for low, high in parts):
        chosen = [draws.choice(range(low, high - 1)) for low, high in parts]
    else:
        chosen = sorted(draws.sample(range(frame_count), len(parts)))
    return _padded(chosen, frames)


def fps_indices(
    frame_count: int, *, input_fps: float, output_fps: float, max_frames: int | None = None
) -> list[int]:
    """The frames nearest to the middles of steps of 1 / `output_fps` seconds, at most `max_frames`.

    Empty if the video is shorter than half a step. Nothing is repeated to reach `max_frames`.
    """
    _check_positive(frame_count=frame_count, input_fps=input_fps, output_fps=output_fps)
    step, duration = 1 / output_fps, frame_count / input_fps
    seconds = np.arange(step / 2, duration + step / 2, step)
    nearest = np.around(seconds * input_fps).astype(int)
    inside = [int(index) for index in nearest if index < frame_count]
    return inside if max_frames is None else inside[:max_frames]


def times_at(start_seconds: float, end_seconds: float, frames: int) -> list[float]:
    """The middles of `frames` equal parts of [start, end], in seconds."""
    _check_positive(frames=frames, duration=end_seconds - start_seconds)
    part = (end_seconds - start_seconds) / frames
    return [start_seconds + (index + 0.5) * part for index in range(frames)]


def _part_bounds(frame_count: int, frames: int) -> list[int]:
    _check_positive(frame_count=frame_count, frames=frames)
    bounds = np.linspace(0, frame_count, min(frames, frame_count) + 1)
    return [int(bound) for bound in bounds]


def _neighbours(bounds: list[int]) -> list[tuple[int, int]]:
    return list(itertools.pairwise(bounds))


def _padded(chosen: list[int], frames: int) -> list[int]:
    return chosen + [chosen[-1]] * (frames - len(chosen))


def _python_generator(generator: random.Random | torch.Generator) -> random.Random:
    if isinstance(generator, torch.Generator):
        return random.Random(int(torch.randint(2**62, (), generator=generator)))
    return generator


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; give a number above 0")
