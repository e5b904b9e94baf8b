"""From the parts of a request to a query whose vectors are known. E embedding width."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.index.collection import Collection
from reelscan.index.segments import Segment
from reelscan.retrieval.moments import Place
from reelscan.retrieval.query import Part, Query
from reelscan.retrieval.serve.api_types import QueryPart
from reelscan.retrieval.serve.text_batcher import TextBatcher
from reelscan.retrieval.serve.uploads import Uploads
from reelscan.retrieval.serve.video_access import NoSuchVideoError, shown


@dataclass(frozen=True, kw_only=True)
class ReadyQuery:
    """A query with what the service already knows of it."""

    query: Query
    vectors: NDArray[np.float32]
    """[P, E], of length 1"""
    examples: tuple[Place, ...]
    """Moments that others should be like; they are no answers themselves."""


class QueryParts:
    """Finds the vectors of sentences, moments and uploads."""

    def __init__(self, collection: Collection, texts: TextBatcher, uploads: Uploads) -> None:
        self._collection = collection
        self._texts = texts
        self._uploads = uploads

    def ready(self, parts: Sequence[QueryPart]) -> ReadyQuery:
        """Raises ValueError for a moment or an upload that is not there."""
        # Before anything is embedded, for these refuse what makes no sense.
        query = Query(parts=tuple(_as_part(part) for part in parts))
        examples = [self._segments(part) for part in parts if part.video is not None]
        return ReadyQuery(
            query=query,
            vectors=self.vectors(parts),
            examples=tuple(
                Place(
                    video=segments[0].video,
                    start_seconds=segments[0].start_seconds,
                    end_seconds=segments[-1].end_seconds,
                )
                for segments in examples
            ),
        )

    def vectors(self, parts: Sequence[QueryPart]) -> NDArray[np.float32]:
        """[P, E], each of length 1."""
        sentences = [part.text for part in parts if part.text is not None]
        of_texts = iter(self._texts.vectors(sentences))
        return np.stack(
            [next(of_texts) if part.text is not None else self._vector(part) for part in parts]
        )

    def _vector(self, part: QueryPart) -> NDArray[np.float32]:
        if part.upload is not None:
            return self._uploads.vector(part.upload)
        stored = self._collection.vectors_of([one.segment_id for one in self._segments(part)])
        mean = stored.mean(axis=0)
        unit: NDArray[np.float32] = mean / max(float(np.linalg.norm(mean)), 1e-12)
        return unit

    def _segments(self, part: QueryPart) -> list[Segment]:
        """Those that make up a moment: that lie in it by half, or else the one most in it."""
        assert part.video is not None, "this part is a moment"
        segments = self._collection.segments_of(part.video)
        if not segments:
            raise NoSuchVideoError(f"the collection has no video {shown(part.video)}")
        start = part.start_seconds or 0.0
        end = segments[-1].end_seconds if part.end_seconds is None else part.end_seconds
        inside = [min(one.end_seconds, end) - max(one.start_seconds, start) for one in segments]
        if max(inside) <= 0 and part.end_seconds is not None:
            raise ValueError(
                f"{shown(part.video)} has no moment from {start:g} to {end:g} s: it ends at "
                f"{segments[-1].end_seconds:g} s"
            )
        halves = [
            one
            for one, seconds in zip(segments, inside, strict=True)
            if seconds >= 0.5 * (one.end_seconds - one.start_seconds)
        ]
        return halves or [segments[int(np.argmax(inside))]]


def _as_part(part: QueryPart) -> Part:
    if part.text is not None:
        return Part(text=part.text, weight=part.weight)
    # A label that messages show; nothing is read under it.
    label = f"upload:{part.upload}" if part.upload is not None else f"moment:{part.video}"
    return Part(
        file=Path(label),
        start_seconds=part.start_seconds,
        end_seconds=part.end_seconds,
        weight=part.weight,
    )
