"""The sentences whose video is found last, with what was found instead."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reelscan.retrieval.contact_sheet import SheetRow, write_contact_sheet
from reelscan.retrieval.evaluation_report import EvaluationReport
from reelscan.retrieval.searcher import SearchHit

FOUND_SHOWN = 4


@dataclass(frozen=True, kw_only=True)
class WorstQuery:
    """A sentence that the encoder answers badly."""

    text: str
    rank: int
    """Of its own video."""
    wanted: str
    """Its own video."""
    wanted_score: float
    found: tuple[str, ...]
    """The videos ranked first."""
    found_scores: tuple[float, ...]


def worst_queries(report: EvaluationReport, count: int) -> list[WorstQuery]:
    """The `count` texts with the worst ranks, worst first, by the report's best ranking.

    Videos that were no candidates for reranking all rank last; the embedding orders those.
    """
    if count < 1:
        raise ValueError(f"the number of worst queries is {count}; give at least 1")
    scores = report.scores
    all_scores = scores.reranked.text_to_video if scores.reranked else scores.similarity
    ranks = report.best.text_to_video.ranks
    by_embedding = next(one for one in report.rankings if one.name == "embedding")
    worst = np.lexsort((-by_embedding.text_to_video.ranks, -ranks))[:count]
    queries = []
    for text in worst.tolist():
        own = all_scores[text]
        first = np.argsort(-own, kind="stable")[:FOUND_SHOWN].tolist()
        wanted = scores.text_video[text]
        queries.append(
            WorstQuery(
                text=scores.texts[text],
                rank=int(ranks[text]),
                wanted=scores.videos[wanted],
                wanted_score=float(own[wanted]),
                found=tuple(scores.videos[video] for video in first),
                found_scores=tuple(float(own[video]) for video in first),
            )
        )
    return queries


def write_worst_sheet(
    path: str | os.PathLike[str], report: EvaluationReport, worst: Sequence[WorstQuery]
) -> None:
    """Write a PNG: a row a sentence, first its own video, then those ranked before it. Atomic."""
    scores = report.scores
    places = {video: place for place, video in enumerate(scores.videos)}

    def hit(video: str, score: float, *, wanted: bool) -> SearchHit:
        place = places[video]
        return SearchHit(
            video=f"{video} (wanted)" if wanted else video,
            start_seconds=0.0,
            end_seconds=scores.seen_seconds[place],
            score=score,
            path=scores.paths[place],
        )

    rows = [
        SheetRow(
            title=f"rank {query.rank:,}: {query.text}",
            hits=[
                hit(query.wanted, query.wanted_score, wanted=True),
                *(
                    hit(video, score, wanted=False)
                    for video, score in zip(query.found, query.found_scores, strict=True)
                ),
            ],
        )
        for query in worst
    ]
    write_contact_sheet(path, rows, columns=1 + FOUND_SHOWN)
