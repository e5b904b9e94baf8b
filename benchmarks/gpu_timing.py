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


def measure(
    work: Callable[[], object], *, warm_ups: int = 3, repetitions: int = 7, captured: bool = False
) -> Cost:
    """Times `work` with events, after warming up.

    `captured` replays it as a CUDA graph, so that the GPU is timed and not the host's launches.
    """
    work()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    for _ in range(warm_ups):
        work()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - before
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            work()
        work = graph.replay
        work()
    times = []
    for _ in range(repetitions):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return Cost(milliseconds=sorted(times)[len(times) // 2], gibibytes=peak / 2**30)


def measure_ahead(work: Callable[[], object], *, host_milliseconds: float = 5.0) -> float:
    """Milliseconds of `work` on the GPU alone, for work that cannot be captured: it is queued while
    the GPU still waits, which the host must manage within `host_milliseconds`."""
    times = []
    for _ in range(8):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(int(host_milliseconds * 2e6))
        start.record()
        work()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return sorted(times[1:])[3]
