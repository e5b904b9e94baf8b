"""What an evaluation says: while it runs, when it cannot, and at its end. Q texts, V videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from reelscan.retrieval.bootstrap import MetricIntervals
from reelscan.retrieval.metrics import RetrievalMetrics
from reelscan.retrieval.rerank import RerankedScores

_LISTED_AT_MOST = 20

Stage = Literal["checking videos", "embedding videos", "embedding texts", "matching pairs"]
RankingName = Literal["embedding", "reranked", "dual softmax"]


@dataclass(frozen=True, kw_only=True)
class EvaluationProgress:
    """How far an evaluation is; the stages follow one another."""

    stage: Stage
    done: int
    total: int
    reused: int = 0
    """Of `done`, what an earlier run had left."""


@dataclass(frozen=True, kw_only=True)
class BrokenVideo:
    """A video that is missing or cannot be read."""

    video: str
    reason: str


class BrokenVideosError(ValueError):
    """Some videos of the set are missing or cannot be read; `broken` holds them all."""

    def __init__(
        self, broken: Sequence[BrokenVideo], *, total: int, hint: str | None = None
    ) -> None:
        lines = [f"{one.video}: {one.reason}" for one in broken[:_LISTED_AT_MOST]]
        if len(broken) > _LISTED_AT_MOST:
            lines.append(f"and {len(broken) - _LISTED_AT_MOST} more")
        advice = hint or (
            "put them in place, or leave them out (leave_out_broken, on the command line "
            "--leave-out-broken), which makes the numbers hard to compare"
        )
        super().__init__(
            f"{len(broken)} of {total} videos are missing or cannot be read; {advice}.\n  "
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
class RankedDirection:
    """One direction of a ranking."""

    metrics: RetrievalMetrics
    intervals: MetricIntervals
    """95 % confidence, by drawing videos again."""
    ranks: NDArray[np.int64]
    """Of each query, from 1."""


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Both directions by one kind of score."""

    name: RankingName
    """"dual softmax" uses the whole query set, which no search has."""
    text_to_video: RankedDirection
    video_to_text: RankedDirection

    @property
    def metrics(self) -> BothDirections:
        """The metrics alone."""
        return BothDirections(
            text_to_video=self.text_to_video.metrics, video_to_text=self.video_to_text.metrics
        )


@dataclass(frozen=True, kw_only=True)
class EvaluationScores:
    """What the metrics were computed from."""

    videos: tuple[str, ...]
    paths: tuple[Path, ...]
    """The videos' files."""
    seen_seconds: tuple[float, ...]
    """How much of each video was looked at."""
    texts: tuple[str, ...]
    text_video: tuple[int, ...]
    """For each text the place of its video in `videos`."""
    similarity: NDArray[np.float32]
    """[Q, V], embedding scores"""
    reranked: RerankedScores | None


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """How well one encoder retrieves on one set."""

    fingerprint: str
    """Of the encoder."""
    rankings: tuple[Ranking, ...]
    """embedding, reranked where asked for, dual softmax"""
    chance: BothDirections
    """What random scores reach."""
    left_out: tuple[BrokenVideo, ...]
    """Missing or broken videos that were left out, with their captions."""
    notices: tuple[str, ...]
    """What a reader of the numbers should know."""
    rerank_top: int | None
    """Candidates a query that the matching head ranked."""
    score_rule: str
    """How they were scored."""
    seconds: float
    """Duration of the evaluation."""
    scores: EvaluationScores

    def ranking(self, name: RankingName) -> Ranking | None:
        """The ranking of this name, if it was made."""
        return next((one for one in self.rankings if one.name == name), None)

    @property
    def embedding(self) -> BothDirections:
        """Ranked by embedding similarity."""
        found = self.ranking("embedding")
        assert found is not None
        return found.metrics

    @property
    def reranked(self) -> BothDirections | None:
        """Ranked by the matching head, where asked for."""
        found = self.ranking("reranked")
        return found.metrics if found is not None else None

    @property
    def best(self) -> Ranking:
        """The ranking that a search could give: reranked where there is one."""
        found = self.ranking("reranked") or self.ranking("embedding")
        assert found is not None
        return found
