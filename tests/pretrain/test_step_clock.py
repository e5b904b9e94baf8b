import pytest

from reelscan.pretrain.step_clock import StepClock


class Clock:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def test_pace_of_steady_steps():
    now = Clock()
    clock = StepClock(clips_per_step=32, now=now)
    for left in (9, 8, 7):
        now.seconds += 0.5
        clock.data_arrived()
        now.seconds += 1.5
        pace = clock.step_done(steps_left=left)
    assert pace.clips_per_second == pytest.approx(16.0)
    assert pace.data_wait_fraction == pytest.approx(0.25)
    assert pace.seconds_left == pytest.approx(14.0)


def test_old_steps_are_forgotten():
    now = Clock()
    clock = StepClock(clips_per_step=1, now=now)
    for seconds in [10.0] + [1.0] * 200:
        now.seconds += seconds
        clock.data_arrived()
        pace = clock.step_done(steps_left=1)
    assert pace.clips_per_second == pytest.approx(1.0, rel=1e-2)
