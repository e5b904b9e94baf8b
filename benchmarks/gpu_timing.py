"""Time and peak memory of work on a GPU."""

from collections.abc import Callable
from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What some work took."""

    milliseconds: float
    """Median of the repetitions."""

    gibibytes: float
    """Peak memory above what was allocated before."""


def measure(work: Callable[[], object], *, warm_ups: int = 3, repetitions: int = 7) -> Cost:
    """Times `work` with events, after warming up."""
    for _ in range(warm_ups):
        work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    times = []
    for _ in range(repetitions):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    peak = torch.cuda.max_memory_allocated() - before
    return Cost(milliseconds=sorted(times)[len(times) // 2], gibibytes=peak / 2**30)
