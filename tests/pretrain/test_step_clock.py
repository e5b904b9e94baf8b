from collections.abc import Iterator

import pytest

from reelscan.pretrain.step_clock import StepClock


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def slow_batches(now: Clock, seconds: list[float]) -> Iterator[int]:
    for number, wait in enumerate(seconds):
        now.seconds += wait
        yield number


def test_pace_of_steady_steps():
    now = Clock()
    clock = StepClock(clips_per_step=32, now=now)
    for number in clock.timing(slow_batches(now, [0.5] * 3)):
        now.seconds += 1.5
        pace = clock.step_done(steps_left=9 - number)
    assert number == 2
    assert pace.clips_per_second == pytest.approx(16.0)
    assert pace.data_wait_fraction == pytest.approx(0.25)
    assert pace.seconds_left == pytest.approx(14.0)


def test_what_happens_between_steps_takes_time_but_is_no_waiting_for_data():
    now = Clock()
    clock = StepClock(clips_per_step=1, now=now)
    for _ in clock.timing(slow_batches(now, [1.0] * 4)):
        now.seconds += 1.0
        pace = clock.step_done(steps_left=1)
        now.seconds += 2.0  # a checkpoint, say
    # 1 of 2 seconds in the first step, 1 of 4 in the others.
    assert pace.data_wait_fraction == pytest.approx(0.28, abs=0.01)


def test_old_steps_are_forgotten():
    now = Clock()
    clock = StepClock(clips_per_step=1, now=now)
    for _ in clock.timing(slow_batches(now, [10.0] + [1.0] * 200)):
        pace = clock.step_done(steps_left=1)
    assert pace.clips_per_second == pytest.approx(1.0, rel=1e-2)
