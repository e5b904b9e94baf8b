"""Finding moments from sentences, pictures and example videos.

P parts of a query, N hits, E embedding width.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.index.collection import SegmentHit
from reelscan.index.frame_codes import best_frame
from reelscan.index.manifest import FingerprintMismatch
from reelscan.index.searchable import SearchableCollection
from reelscan.models.encoder import Encoder
from reelscan.retrieval.calibration import Calibration, ScoreCurve
from reelscan.retrieval.matching_order import check_can_rerank, matching_logits
from reelscan.retrieval.moments import (
    SearchHit,
    VideoHit,
    by_video,
    fold_duplicates,
    join_neighbours,
)
from reelscan.retrieval.query import AnyQuery, Query, as_query
from reelscan.retrieval.query_vectors import (
    QueryVectors,
    Spread,
    combine,
    embed_parts,
    spread_of,
)
from reelscan.retrieval.rerank import matching_encoder
from reelscan.retrieval.token_cache import TokenCache
from reelscan.video.sampling import times_at

__all__ = ["SearchHit", "SearchOptions", "Searcher", "VideoHit"]
_SAMPLED_SEGMENTS = 4096
_LOOKED_AT_PER_VIDEO = 16
_LOOKED_AT_PER_MOMENT = 3


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How hits become answers."""

    rerank: bool = False
    """Read the best candidates again with the matching head: better and slower; sentences only."""
    rerank_candidates: int = 64
    """Segments that rerank reads."""
    join: bool = True
    """Make one moment of neighbours that both answer."""
    fold_duplicates: bool = False
    """Show what looks the same once."""
    duplicate_similarity: float = 0.98
    """Cosine from which two moments look the same."""
    min_score: float | None = None
    """Least probability (docs/search.md), 0 to 1; needs a calibrated model."""
    where: str | None = None
    """Condition that segments have to meet, as in `reelscan.index.where`."""

    def __post_init__(self) -> None:
        if self.rerank_candidates < 1:
            raise ValueError(
                f"rerank_candidates is {self.rerank_candidates}; give a number of at least 1"
            )
        for name in ("duplicate_similarity", "min_score"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"{name} is {value}; give a number from 0 to 1")


class Searcher:
    """Answers queries from one collection with the encoder that made it."""

    def __init__(
        self,
        collection: SearchableCollection,
        encoder: Encoder,
        *,
        calibration: Calibration | None = None,
        token_cache: TokenCache | None = None,
    ) -> None:
        """`calibration` gives hits their probability; `token_cache` makes reranking again quick.

        Raises FingerprintMismatch when another encoder made the collection.
        """
        made_with = collection.manifest.fingerprint
        if encoder.fingerprint != made_with:
            raise FingerprintMismatch(
                collection=made_with, encoder=encoder.fingerprint, path=Path(collection.name)
            )
        self._collection = collection
        self._encoder = encoder
        self._calibration = calibration
        self._token_cache = token_cache
        self._spread: Spread | None = None

    def search(
        self,
        query: AnyQuery,
        *,
        top: int = 10,
        one_per_video: bool = False,
        rerank: bool = False,
        rerank_candidates: int = 64,
        options: SearchOptions | None = None,
        part_vectors: NDArray[np.float32] | None = None,
    ) -> list[SearchHit]:
        """The `top` moments for a query, best first.

        A `str` is a sentence, a `Path` an example picture or video; `Query` has several, weighted.
        `one_per_video` keeps the best moment of each video. `rerank` and `rerank_candidates` are
        for calls without `options`. `part_vectors` [P, E], of length 1, are taken for those of the
        query's parts where the caller has them already.

        Raises:
            ValueError: the query or the collection is empty, `where` cannot be read, the encoder
                cannot rerank, `min_score` without a calibration, or a video cannot be read
                (VideoError).
            FileNotFoundError: an example does not exist.
        """
        options = options or SearchOptions(rerank=rerank, rerank_candidates=rerank_candidates)
        if one_per_video:
            videos = self.search_videos(
                query, top=top, moments_per_video=1, options=options, part_vectors=part_vectors
            )
            return [video.moments[0] for video in videos]
        return self._answer(query, options, part_vectors, top=top)[:top]

    def search_videos(
        self,
        query: AnyQuery,
        *,
        top: int = 10,
        moments_per_video: int | None = None,
        options: SearchOptions | None = None,
        part_vectors: NDArray[np.float32] | None = None,
    ) -> list[VideoHit]:
        """The `top` videos for a query, each with its best moments, all that were found or so many.

        `part_vectors` and errors are those of `search`.
        """
        if moments_per_video is not None and moments_per_video < 1:
            raise ValueError(f"moments_per_video is {moments_per_video}; give at least 1, or None")
        options = options or SearchOptions()
        hits = self._answer(query, options, part_vectors, top=top, per_video=True)
        return by_video(hits, moments_per_video=moments_per_video)[:top]

    def _answer(
        self,
        query: AnyQuery,
        options: SearchOptions,
        part_vectors: NDArray[np.float32] | None,
        *,
        top: int,
        per_video: bool = False,
    ) -> list[SearchHit]:
        """Moments, best first; at least `top`, or so many of different videos, if there are."""
        if top < 1:
            raise ValueError(f"top is {top}; ask for at least 1")
        query = as_query(query)
        self._check(query, options)
        parts = embed_parts(query, self._encoder) if part_vectors is None else part_vectors
        vectors = combine(parts, query, self._spread_of_all())
        fetched = top * (_LOOKED_AT_PER_MOMENT if options.join else 1)
        if per_video:
            fetched = top * _LOOKED_AT_PER_VIDEO
        if options.rerank:
            fetched = max(top, options.rerank_candidates)
        while True:
            found = self._collection.search(vectors.vector[None], top=fetched, where=options.where)[
                0
            ]
            hits = self._moments(query, vectors, found, options)
            enough = len(by_video(hits) if per_video else hits) >= top
            # Those that come later reach `min_score` even less, and reranking has its own number.
            final = options.rerank or (options.min_score is not None and len(hits) == 0)
            if enough or final or len(found) < fetched:
                return hits
            fetched *= 4

    def _check(self, query: Query, options: SearchOptions) -> None:
        if options.rerank:
            check_can_rerank(query)
            matching_encoder(self._encoder)
        if options.min_score is not None:
            if len(query.sentences) < len(query.parts):
                raise ValueError(
                    "min_score is known for sentences, and the query has an example picture or "
                    "video: search without min_score"
                )
            if self._curve(options) is None:
                way = " with reranking" if options.rerank else ""
                raise ValueError(
                    f"this model's scores{way} were not calibrated, so min_score has no meaning: "
                    "run `reelscan evaluate ANNOTATIONS --videos FOLDER --model MODEL --calibrate` "
                    "on videos that it was not trained on, or search without min_score"
                )
        if len(self._collection) == 0:
            raise ValueError(f"{self._collection.name} holds no segments yet: embed videos first")

    def _spread_of_all(self) -> Spread | None:
        if self._spread is None:
            self._spread = spread_of(self._collection.sample_vectors(_SAMPLED_SEGMENTS))
        return self._spread

    def _curve(self, options: SearchOptions) -> ScoreCurve | None:
        if self._calibration is None:
            return None
        fitted = self._calibration.matching if options.rerank else self._calibration.similarity
        return None if fitted is None else fitted.curve

    def _moments(
        self,
        query: Query,
        vectors: QueryVectors,
        found: Sequence[SegmentHit],
        options: SearchOptions,
    ) -> list[SearchHit]:
        codes = self._collection.frame_codes_of([segment.segment_id for segment in found])
        hits = [self._hit(one, vectors, codes.get(one.segment_id)) for one in found]
        usual = vectors.usual
        of_parts: NDArray[np.float32] | None = None
        if options.rerank:
            of_parts = self._logits(query, hits)
            scores = of_parts @ (vectors.weights / np.abs(vectors.weights).sum())
            order = np.argsort(-scores, kind="stable").tolist()
            hits = [replace(hits[row], score=float(scores[row])) for row in order]
            of_parts = of_parts[order]
            usual = float(np.median(scores)) if len(scores) else 0.0
        hits = self._with_probability(query, vectors, hits, of_parts, self._curve(options))
        if options.min_score is not None:
            hits = [hit for hit in hits if (hit.probability or 0.0) >= options.min_score]
        if options.join:
            hits = join_neighbours(hits, usual=usual)
        if options.fold_duplicates and hits:
            of_hits = self._collection.vectors_of([hit.segment_ids[0] for hit in hits])
            hits = fold_duplicates(hits, of_hits, similarity=options.duplicate_similarity)
        return hits

    def _logits(self, query: Query, hits: Sequence[SearchHit]) -> NDArray[np.float32]:
        return matching_logits(
            matching_encoder(self._encoder),
            query,
            hits,
            windowing=self._collection.manifest.windowing,
            cache=self._token_cache,
        )

    def _with_probability(
        self,
        query: Query,
        vectors: QueryVectors,
        hits: list[SearchHit],
        of_parts: NDArray[np.float32] | None,
        curve: ScoreCurve | None,
    ) -> list[SearchHit]:
        """The hits with the least of their parts' probabilities; `of_parts` [N, P] scores."""
        if curve is None or not hits or len(query.sentences) < len(query.parts):
            return hits
        if of_parts is None:
            of_hits = self._collection.vectors_of([hit.segment_ids[0] for hit in hits])
            of_parts = of_hits @ vectors.parts.T
        chances = curve.probability(of_parts.astype(np.float64))
        wanted = np.array([part.is_wanted for part in query.parts])
        least = np.where(wanted, chances, 1 - chances).min(axis=1)
        return [
            replace(hit, probability=round(float(chance), 4))
            for hit, chance in zip(hits, least, strict=True)
        ]

    def _hit(self, segment: SegmentHit, vectors: QueryVectors, codes: bytes | None) -> SearchHit:
        best_frame_seconds = None
        if codes is not None:
            frame, frames = best_frame(codes, vectors.vector)
            times = times_at(segment.start_seconds, segment.end_seconds, frames)
            best_frame_seconds = times[frame]
        return SearchHit(
            video=segment.video,
            start_seconds=segment.start_seconds,
            end_seconds=segment.end_seconds,
            score=segment.score + vectors.offset,
            best_frame_seconds=best_frame_seconds,
            path=self._collection.video_path(segment.video),
            metadata=segment.metadata,
            segment_ids=(segment.segment_id,),
        )
