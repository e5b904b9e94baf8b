"""How fast training goes, how much of that is waiting for data, and how long it will take."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

MEMORY_STEPS = 20

Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Means over about the last `MEMORY_STEPS` steps."""

    clips_per_second: float
    """Of all processes together."""
    data_wait_fraction: float
    """Part of the time spent waiting for the next batch."""
    flops_per_second: float
    """Floating point operations, of all processes together, as far as they are counted."""
    seconds_left: float
    """Until the last step at this pace."""


class StepClock:
    """Draws the batches through `timing` and is told of each step by `step_done`."""

    def __init__(
        self, *, clips_per_step: int, now: Callable[[], float] = time.perf_counter
    ) -> None:
        self._clips_per_step = clips_per_step
        self._now = now
        self._last = now()
        self._waited = self._seconds = self._steps = self._flops = 0.0
        self._wait = 0.0
        self.waited_seconds = 0.0
        """Spent waiting for batches so far."""

    def timing(self, batches: Iterator[Item]) -> Iterator[Item]:
        """The same batches; notes how long each is waited for."""
        while True:
            asked = self._now()
            try:
                batch = next(batches)
            except StopIteration:
                return
            self._wait = self._now() - asked
            self.waited_seconds += self._wait
            yield batch

    def forget_pause(self) -> None:
        """The time since the last step was not spent on training."""
        self._last = self._now()

    def step_done(self, *, steps_left: int, flops: float = 0.0) -> Pace:
        """`flops`: of the step, in all processes."""
        now = self._now()
        keep = 1.0 - 1.0 / MEMORY_STEPS
        self._waited = keep * self._waited + self._wait
        self._seconds = keep * self._seconds + (now - self._last)
        self._steps = keep * self._steps + 1.0
        self._flops = keep * self._flops + flops
        self._last = now
        seconds = max(self._seconds, 1e-9)
        return Pace(
            clips_per_second=self._clips_per_step * self._steps / seconds,
            data_wait_fraction=self._waited / seconds,
            flops_per_second=self._flops / seconds,
            seconds_left=steps_left * seconds / self._steps,
        )
