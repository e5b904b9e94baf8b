"""What an evaluation says: while it runs, when it cannot, and at its end. Q texts, V videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reelscan.retrieval.metrics import RetrievalMetrics
from reelscan.retrieval.rerank import RerankedScores

_LISTED_AT_MOST = 20


@dataclass(frozen=True, kw_only=True)
class EvaluationProgress:
    """How far an evaluation is; the stages follow one another."""

    stage: Literal["checking videos", "embedding videos", "matching pairs"]
    done: int
    total: int


@dataclass(frozen=True, kw_only=True)
class BrokenVideo:
    """A video that is missing or cannot be read."""

    video: str
    reason: str


class BrokenVideosError(ValueError):
    """Some videos of the set are missing or cannot be read; `broken` holds them all."""

    def __init__(self, broken: Sequence[BrokenVideo], *, total: int) -> None:
        lines = [f"{one.video}: {one.reason}" for one in broken[:_LISTED_AT_MOST]]
        if len(broken) > _LISTED_AT_MOST:
            lines.append(f"and {len(broken) - _LISTED_AT_MOST} more")
        super().__init__(
            f"{len(broken)} of {total} videos are missing or cannot be read. Put them in place, "
            "or leave them out (leave_out_broken), which makes the numbers hard to compare.\n  "
            + "\n  ".join(lines)
        )
        self.broken = tuple(broken)


@dataclass(frozen=True, kw_only=True)
class BothDirections:
    """Metrics of texts looking for videos and of videos looking for texts."""

    text_to_video: RetrievalMetrics
    """Each text is a query."""
    video_to_text: RetrievalMetrics
    """Each video is a query; its rank is that of its best text."""


@dataclass(frozen=True, kw_only=True)
class EvaluationScores:
    """What the metrics were computed from."""

    videos: tuple[str, ...]
    texts: tuple[str, ...]
    text_video: tuple[int, ...]
    """For each text the place of its video in `videos`."""
    similarity: NDArray[np.float32]
    """[Q, V], embedding scores"""
    reranked: RerankedScores | None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """How well one encoder retrieves on one set."""

    embedding: BothDirections
    """Ranked by embedding similarity."""
    reranked: BothDirections | None
    """Ranked by the matching head, where asked for."""
    chance: BothDirections
    """What random scores reach."""
    left_out: tuple[BrokenVideo, ...]
    """Missing or broken videos that were left out, with their captions."""
    seconds: float
    """Duration of the evaluation."""
    scores: EvaluationScores
