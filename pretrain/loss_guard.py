"""Which total loss is too high to learn from: far above those of the last steps."""

import math
from collections.abc import Sequence
from statistics import fmean, pstdev

LEAST_DEVIATION = 0.02
"""Of the mean: losses that have settled may still jitter."""


def highest_loss(recent: Sequence[float], *, deviations: float | None, memory_steps: int) -> float:
    """What a step's total loss must not exceed; infinite while too little is known."""
    if deviations is None or len(recent) < memory_steps:
        return math.inf
    mean = fmean(recent)
    return mean + deviations * max(pstdev(recent), LEAST_DEVIATION * abs(mean))


def remember(recent: Sequence[float], loss: float, *, memory_steps: int) -> tuple[float, ...]:
    """The last losses after one more."""
    return (*recent, loss)[-memory_steps:]
