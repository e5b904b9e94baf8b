"""A progress bar for each stage of an evaluation."""

import sys
from types import TracebackType

from reelscan.retrieval.cli.progress import StageProgress
from reelscan.retrieval.evaluation_report import EvaluationProgress, Stage

_UNITS: dict[Stage, str] = {
    "checking videos": "videos",
    "embedding videos": "videos",
    "embedding texts": "texts",
    "matching pairs": "pairs",
}


class EvaluationBars:
    """Shows the stages one after the other; what an earlier run left does not count as speed."""

    def __init__(self, label: str = "") -> None:
        self._label = label
        self._stage: Stage | None = None
        self._bar: StageProgress | None = None

    def __enter__(self) -> "EvaluationBars":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.__exit__(kind, error, trace)
            self._bar = None

    def show(self, progress: EvaluationProgress) -> None:
        """Bring the bars up to date."""
        if progress.reused == progress.total:
            if progress.stage != self._stage and progress.done == progress.total:
                self.__exit__(None, None, None)
                self._stage = progress.stage
                label = self._labelled(progress.stage)
                print(
                    f"{label}: all {progress.total:,} {_UNITS[progress.stage]} were done earlier",
                    file=sys.stderr,
                )
            return
        if progress.stage != self._stage or self._bar is None:
            self.__exit__(None, None, None)
            self._stage = progress.stage
            self._bar = StageProgress(self._labelled(progress.stage), unit=_UNITS[progress.stage])
            self._bar.__enter__()
        note = f"{progress.reused:,} were done earlier" if progress.reused else ""
        self._bar.update(
            progress.done - progress.reused, progress.total - progress.reused, note=note
        )

    def _labelled(self, stage: Stage) -> str:
        return f"{self._label}: {stage}" if self._label else stage
