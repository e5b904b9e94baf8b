"""What a search of a collection gives back, and how found ids become it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reelscan.index.exact_search import BestSoFar
from reelscan.index.segments import Segment, SegmentStore


@dataclass(frozen=True, kw_only=True)
class SegmentHit:
    """A segment found by a search."""

    segment_id: int
    video: str
    """Relative to the videos' root."""
    start_seconds: float
    end_seconds: float
    score: float
    """Inner product of query and segment."""
    metadata: Mapping[str, object]


def look_up(store: SegmentStore, best: BestSoFar) -> list[list[SegmentHit]] | None:
    """Hits for what the index found; None if a segment is gone since the index was read."""
    wanted = {one for ids in best.segment_ids.tolist() for one in ids if one >= 0}
    segments = store.segments_by_id(list(wanted))
    if len(segments) < len(wanted):
        return None
    return [
        [_hit(segments[one], score) for one, score in zip(ids, scores, strict=True) if one >= 0]
        for ids, scores in zip(best.segment_ids.tolist(), best.scores.tolist(), strict=True)
    ]


def _hit(segment: Segment, score: float) -> SegmentHit:
    return SegmentHit(
        segment_id=segment.segment_id,
        video=segment.video,
        start_seconds=segment.start_seconds,
        end_seconds=segment.end_seconds,
        score=score,
        metadata=segment.metadata,
    )


def best_of_each_video(hits: Sequence[SegmentHit]) -> list[SegmentHit]:
    best: dict[str, SegmentHit] = {}
    for hit in hits:
        best.setdefault(hit.video, hit)
    return list(best.values())
