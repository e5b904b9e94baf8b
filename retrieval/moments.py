"""From the segments a search found to the moments it answers with: joined, folded, by video.

N hits, E embedding width.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TOUCHING_SECONDS = 0.1
_SAME_STRETCH = 0.5


@dataclass(frozen=True, kw_only=True)
class Place:
    """A stretch of a video."""

    video: str
    """Relative to the collection's folder of videos."""
    start_seconds: float
    end_seconds: float


@dataclass(frozen=True, kw_only=True)
class SearchHit(Place):
    """A moment that answers a query."""

    score: float
    """Similarity, about -1 to 1; for several parts their weighted mean in standard deviations;
    after reranking the matching logit."""
    path: Path
    """Where the video's file lies."""
    best_frame_seconds: float | None = None
    """When the frame is shown that answers best; None where the collection knows no frames."""
    probability: float | None = None
    """What `--min-score` compares (docs/search.md); None where the model is not calibrated."""
    duplicates: tuple[Place, ...] = ()
    """Moments that look the same, folded into this one."""
    metadata: Mapping[str, object] = field(default_factory=dict)
    """What was recorded about the segment."""
    segment_ids: tuple[int, ...] = ()
    """The segments it is made of, the best first."""


@dataclass(frozen=True, kw_only=True)
class VideoHit:
    """A video with its moments that answer a query."""

    video: str
    path: Path
    score: float
    """Of its best moment."""
    moments: tuple[SearchHit, ...]
    """Best first."""


def join_neighbours(
    hits: Sequence[SearchHit], *, usual: float, share: float = 0.95
) -> list[SearchHit]:
    """Hits, best first, of which neighbours that both answer are one moment.

    A hit joins a better one that it touches or overlaps if it stands out from the collection's
    `usual` score by at least `share` of what the better one does. Hits that do not, but half of
    which lie within a better one, are only that one's edge and are left out.
    """
    moments: list[SearchHit] = []
    for hit in hits:
        near = [one for one in moments if one.video == hit.video and _gap(one, hit) <= 0]
        joined = [one for one in near if _stands_out(hit, one, usual, share)]
        if joined:
            place = moments.index(joined[0])
            moments[place] = _union([*joined, hit])
            moments = [one for one in moments if one not in joined[1:]]
        elif not any(_inside(hit, one) for one in near):
            moments.append(hit)
    return moments


def fold_duplicates(
    hits: Sequence[SearchHit], vectors: NDArray[np.float32], *, similarity: float = 0.98
) -> list[SearchHit]:
    """Hits, best first, of which those that look like a better one are named in it.

    vectors [N, E]: of each hit's best segment. `similarity`: cosine from which two look the same.
    """
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    alike = (vectors / np.maximum(lengths, 1e-12)) @ (vectors / np.maximum(lengths, 1e-12)).T
    kept: list[int] = []
    folded: dict[int, list[Place]] = {}
    for row, hit in enumerate(hits):
        same = next((one for one in kept if alike[row, one] >= similarity), None)
        if same is None:
            kept.append(row)
            folded[row] = []
        else:
            folded[same] += [_place(hit), *hit.duplicates]
    return [replace(hits[row], duplicates=(*hits[row].duplicates, *folded[row])) for row in kept]


def by_video(hits: Sequence[SearchHit], *, moments_per_video: int | None = None) -> list[VideoHit]:
    """Videos in the order of their best moments, each with its best ones or all of them."""
    found: dict[str, list[SearchHit]] = {}
    for hit in hits:
        found.setdefault(hit.video, []).append(hit)
    return [
        VideoHit(
            video=video,
            path=moments[0].path,
            score=moments[0].score,
            moments=tuple(moments[:moments_per_video]),
        )
        for video, moments in found.items()
    ]


def _gap(one: Place, other: Place) -> float:
    """Seconds between two places of a video, less what still counts as touching."""
    begin = max(one.start_seconds, other.start_seconds)
    return begin - min(one.end_seconds, other.end_seconds) - _TOUCHING_SECONDS


def _stands_out(hit: SearchHit, better: SearchHit, usual: float, share: float) -> bool:
    return hit.score > usual and hit.score - usual >= share * (better.score - usual)


def _inside(hit: Place, better: Place) -> bool:
    common = min(hit.end_seconds, better.end_seconds) - max(hit.start_seconds, better.start_seconds)
    return common >= _SAME_STRETCH * (hit.end_seconds - hit.start_seconds)


def _union(hits: Sequence[SearchHit]) -> SearchHit:
    """One moment with all that the first, the best, is told by."""
    return replace(
        hits[0],
        start_seconds=min(hit.start_seconds for hit in hits),
        end_seconds=max(hit.end_seconds for hit in hits),
        segment_ids=tuple(one for hit in hits for one in hit.segment_ids),
    )


def _place(hit: SearchHit) -> Place:
    return Place(video=hit.video, start_seconds=hit.start_seconds, end_seconds=hit.end_seconds)
