"""When each frame of a video is shown."""

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass


class TimelineMismatchError(Exception):
    """Decoding gave other frames than the timeline has."""


@dataclass(frozen=True)
class Timeline:
    """Frames in the order they are shown; a frame's ordinal is its place here."""

    times_seconds: "array[float]"
    """when each frame begins, ascending, counted from the video's first frame"""
    end_seconds: float
    """when the last frame stops being shown; infinite if frames behind these were left out"""

    def ordinal_at(self, time_seconds: float) -> int:
        """The last frame that begins at or before `time_seconds`, else the first one."""
        return max(0, bisect_right(self.times_seconds, time_seconds) - 1)

    def span(self, start_seconds: float, end_seconds: float) -> range:
        """Frames that begin in [start, end); if none does, the one shown at `start_seconds`."""
        low = bisect_left(self.times_seconds, start_seconds)
        high = bisect_left(self.times_seconds, end_seconds)
        if low < high:
            return range(low, high)
        shown = self.ordinal_at(start_seconds)
        return range(shown, shown + 1)

    @property
    def fps(self) -> float:
        """Mean frames per second."""
        count = len(self.times_seconds)
        between_first_and_last = self.times_seconds[-1] - self.times_seconds[0]
        if between_first_and_last > 0:
            return (count - 1) / between_first_and_last
        return count / (self.end_seconds - self.times_seconds[0])
