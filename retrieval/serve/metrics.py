"""Counters of a service, in the text format that Prometheus reads."""

import threading
from bisect import bisect_left
from collections.abc import Mapping

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)
_BATCHES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


class Histogram:
    """How many values were up to each of some bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._total += value

    def lines(self, name: str, labels: str = "") -> list[str]:
        """As Prometheus wants them."""
        lines, so_far = [], 0
        more = f"{labels}," if labels else ""
        for bound, count in zip((*self._bounds, None), self._counts, strict=True):
            so_far += count
            shown = "+Inf" if bound is None else f"{bound:g}"
            lines.append(f'{name}_bucket{{{more}le="{shown}"}} {so_far}')
        within = f"{{{labels}}}" if labels else ""
        return [*lines, f"{name}_sum{within} {self._total:.6f}", f"{name}_count{within} {so_far}"]


class Metrics:
    """Requests, their times, and batches; routes are those of the API, never what was typed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[tuple[str, str, int], int] = {}
        self._seconds: dict[str, Histogram] = {}
        self._batches = Histogram(_BATCHES)

    def count_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """One answered request."""
        with self._lock:
            key = (method, route, status)
            self._requests[key] = self._requests.get(key, 0) + 1
            self._seconds.setdefault(route, Histogram(_SECONDS)).add(seconds)

    def count_batch(self, size: int) -> None:
        """Sentences that went through the model together."""
        with self._lock:
            self._batches.add(size)

    def text(self, gauges: Mapping[str, tuple[str, float]]) -> str:
        """Everything; `gauges` are further numbers by name, with what they mean."""
        lines: list[str] = []
        with self._lock:
            lines += _head("reelscan_requests_total", "counter", "Answered requests.")
            for (method, route, status), count in sorted(self._requests.items()):
                labels = f'method="{method}",route="{route}",status="{status}"'
                lines.append(f"reelscan_requests_total{{{labels}}} {count}")
            lines += _head("reelscan_request_seconds", "histogram", "Time to the last byte.")
            for route, histogram in sorted(self._seconds.items()):
                lines += histogram.lines("reelscan_request_seconds", f'route="{route}"')
            lines += _head("reelscan_text_batch", "histogram", "Sentences embedded together.")
            lines += self._batches.lines("reelscan_text_batch")
        for name, (meaning, value) in gauges.items():
            lines += [*_head(name, "gauge", meaning), f"{name} {value:g}"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]
