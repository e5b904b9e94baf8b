"""A progress bar with rate and time left; plain lines where there is no terminal."""

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

SECONDS_BETWEEN_LINES = 10.0


class RateColumn(ProgressColumn):
    """Units a second."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields["unit"]
        return Text("" if speed is None else f"{speed:,.1f} {unit}/s", style="progress.data.speed")


class StageProgress:
    """Shows how far one stage is; `update` may be called as often as one likes.

    Writes to stderr, so that `--json` on stdout stays clean.
    """

    def __init__(self, label: str, *, unit: str, total: int | None = None) -> None:
        self.label, self.unit, self.total = label, unit, total
        self.done, self.note = 0, ""
        self.started = self.last_line = time.monotonic()
        console = Console(stderr=True)
        self.bar: Progress | None = None
        if console.is_terminal:
            self.bar = Progress(
                TextColumn("{task.description:<22}"),
                BarColumn(),
                MofNCompleteColumn(),
                RateColumn(),
                TimeRemainingColumn(compact=True),
                TextColumn("{task.fields[note]}"),
                console=console,
            )

    def __enter__(self) -> "StageProgress":
        if self.bar is not None:
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total, unit=self.unit, note="")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif kind is None:
            seconds = time.monotonic() - self.started
            print(f"{self.label}: {self.done} {self.unit} in {seconds:.0f} s", file=sys.stderr)

    def update(self, done: int, total: int | None = None, *, note: str = "") -> None:
        """`done` of `total` units; `note` is shown behind."""
        self.done, self.note = done, note
        self.total = total if total is not None else self.total
        if self.bar is not None:
            self.bar.update(self.task, completed=done, total=self.total, note=note)
        elif time.monotonic() - self.last_line >= SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            print(self.line(), file=sys.stderr, flush=True)

    def line(self) -> str:
        seconds = time.monotonic() - self.started
        rate = self.done / seconds
        parts = [f"{self.label}: {self.done}" + (f"/{self.total}" if self.total else "")]
        parts.append(f"{rate:,.1f} {self.unit}/s")
        if self.total and rate > 0:
            parts.append(f"{duration_text((self.total - self.done) / rate)} left")
        return ", ".join([*parts, self.note] if self.note else parts)


def notice(text: str) -> None:
    """Says on stderr what is about to take long."""
    print(text, file=sys.stderr, flush=True)


def duration_text(seconds: float) -> str:
    """`75` -> `1:15`, `4000` -> `1:06:40`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
