"""One collection and its encoder, answering requests from many threads. No HTTP here."""

import threading
import time
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

from reelscan.index.collection import Collection
from reelscan.models.encoder import Encoder, MatchingEncoder
from reelscan.retrieval.calibration import Calibration
from reelscan.retrieval.moments import Place, SearchHit
from reelscan.retrieval.searcher import Searcher, SearchOptions
from reelscan.retrieval.serve.answers import (
    moment_answer,
    segment_answer,
    video_moments,
    video_summary,
)
from reelscan.retrieval.serve.api_types import (
    CollectionAnswer,
    EmbedAnswer,
    EmbedRequest,
    MetadataField,
    QueryPart,
    SearchAnswer,
    SearchRequest,
    UploadAnswer,
    VideoAnswer,
    VideosAnswer,
)
from reelscan.retrieval.serve.isolated_decoder import IsolatedDecoder
from reelscan.retrieval.serve.metrics import Metrics
from reelscan.retrieval.serve.query_parts import QueryParts, ReadyQuery
from reelscan.retrieval.serve.text_batcher import TextBatcher
from reelscan.retrieval.serve.thumbnails import Thumbnails
from reelscan.retrieval.serve.uploads import Uploads
from reelscan.retrieval.serve.video_access import NoSuchVideoError, shown, video_file
from reelscan.retrieval.token_cache import TokenCache

_VIDEOS_LOOKED_AT = 1000
_VALUES_NAMED = 12


class SearchService:
    """Every method may be called from any thread and raises ValueError for bad requests."""

    def __init__(
        self,
        collection: Collection,
        encoder: Encoder,
        *,
        calibration: Calibration | None = None,
        token_cache: TokenCache | None = None,
    ) -> None:
        """Raises FingerprintMismatch when another encoder made the collection."""
        self.collection = collection
        self.metrics = Metrics()
        self._encoder = encoder
        self._calibration = calibration
        self._searcher = Searcher(
            collection, encoder, calibration=calibration, token_cache=token_cache
        )
        self._texts = TextBatcher(encoder, on_batch=self.metrics.count_batch)
        self._decoder = IsolatedDecoder(encoder.preprocessing)
        self._uploads = Uploads(encoder, self._decoder)
        self._parts = QueryParts(collection, self._texts, self._uploads)
        self._thumbnails = Thumbnails()
        self._reranking = threading.Lock()

    def close(self) -> None:
        """Stop the threads and processes; the collection stays open."""
        self._texts.close()
        self._decoder.close()

    @property
    def can_rerank(self) -> bool:
        """Whether the encoder has a trained matching head."""
        return isinstance(self._encoder, MatchingEncoder) and self._encoder.can_match

    def warm_up(self) -> None:
        """Embed a sentence and open the index, so that the first search is as quick as others."""
        if len(self.collection):
            self.search(SearchRequest(text="a video", top=1))

    def is_ready(self) -> bool:
        """Whether a search can be answered now; reads the collection."""
        return self._texts.is_alive and len(self.collection) > 0

    def search(self, request: SearchRequest) -> SearchAnswer:
        """The moments, or videos, that answer."""
        started = time.perf_counter()
        ready = self._parts.ready(request.all_parts())
        options = SearchOptions(
            rerank=request.rerank,
            join=request.join,
            fold_duplicates=request.fold_duplicates,
            min_score=request.min_score,
            where=_condition(request),
        )
        # One at a time: reranking decodes and runs the model, and would slow down all the others.
        with self._reranking if request.rerank else nullcontext():
            answer = self._answer(request, ready, options)
        milliseconds = round(1000 * (time.perf_counter() - started), 2)
        return answer.model_copy(update={"milliseconds": milliseconds})

    def _answer(
        self, request: SearchRequest, ready: ReadyQuery, options: SearchOptions
    ) -> SearchAnswer:
        if request.group == "video":
            videos = self._searcher.search_videos(
                ready.query,
                top=request.top,
                moments_per_video=request.moments_per_video,
                options=options,
                part_vectors=ready.vectors,
            )
            return SearchAnswer(videos=tuple(video_moments(one) for one in videos), milliseconds=0)
        hits = self._searcher.search(
            ready.query,
            top=request.top + len(ready.examples),
            options=options,
            part_vectors=ready.vectors,
        )
        kept = [hit for hit in hits if not _is_example(hit, ready.examples)][: request.top]
        return SearchAnswer(moments=tuple(moment_answer(one) for one in kept), milliseconds=0)

    def embed(self, request: EmbedRequest) -> EmbedAnswer:
        """The vectors of texts and parts."""
        parts = [*(QueryPart(text=text) for text in request.texts), *request.parts]
        if not parts:
            raise ValueError("give texts or parts to embed")
        return EmbedAnswer(
            fingerprint=self._encoder.fingerprint,
            embed_dim=self._encoder.embed_dim,
            vectors=tuple(tuple(row) for row in self._parts.vectors(parts).tolist()),
        )

    def upload(self, content: bytes) -> UploadAnswer:
        """Embed an example picture or clip; raises VideoError."""
        name, frames = self._uploads.add(content)
        return UploadAnswer(upload=name, frames=frames)

    def videos(self, *, offset: int, limit: int, contains: str) -> VideosAnswer:
        """Some of the videos, by name."""
        wanted = contains.casefold()
        found = [one for one in self.collection.videos().values() if wanted in one.path.casefold()]
        return VideosAnswer(
            videos=tuple(video_summary(one) for one in found[offset : offset + limit]),
            total=len(found),
            offset=offset,
        )

    def video(self, video: str) -> VideoAnswer:
        """One video with its segments; raises NoSuchVideoError."""
        metadata = self.collection.metadata_of(video)
        file = None if metadata is None else self.collection.videos().get(video)
        if file is None:
            raise NoSuchVideoError(f"the collection has no video {shown(video)}")
        segments = self.collection.segments_of(video)
        end = max((one.end_seconds for one in segments), default=0.0)
        return VideoAnswer(
            **video_summary(file, seconds=min(1.0, end / 2)).model_dump(),
            end_seconds=end,
            metadata=dict(metadata or {}),
            segments=tuple(segment_answer(one) for one in segments),
        )

    def about(self) -> CollectionAnswer:
        """What is searched, and what its metadata can be filtered by."""
        videos = self.collection.videos()
        return CollectionAnswer(
            name=Path(self.collection.name).name,
            videos=len(videos),
            segments=len(self.collection),
            can_rerank=self.can_rerank,
            has_probabilities=self._calibration is not None,
            fields=self._fields(list(videos)),
        )

    def file(self, video: str) -> Path:
        """The file of a video; raises NoSuchVideoError."""
        return video_file(self.collection, video)

    def frame(self, video: str, *, seconds: float, height: int) -> bytes:
        """JPEG of a frame; raises NoSuchVideoError, VideoError."""
        return self._thumbnails.jpeg(self.file(video), seconds, height=height)

    def _fields(self, videos: list[str]) -> tuple[MetadataField, ...]:
        step = max(1, len(videos) // _VIDEOS_LOOKED_AT)
        values: dict[str, Counter[str | float | bool]] = {}
        for video in videos[::step]:
            for key, value in (self.collection.metadata_of(video) or {}).items():
                values.setdefault(key, Counter())[value] += 1
        return tuple(
            MetadataField(name=key, values=tuple(v for v, _ in counted.most_common(_VALUES_NAMED)))
            for key, counted in sorted(values.items())
        )


def _condition(request: SearchRequest) -> str | None:
    if request.video is None:
        return request.where
    escaped = request.video.replace("'", "''")
    within = f"video = '{escaped}'"
    return within if not request.where else f"({request.where}) and {within}"


def _is_example(hit: SearchHit, examples: tuple[Place, ...]) -> bool:
    """Whether it is, for the most part, a moment that was given as an example."""
    return any(
        hit.video == one.video
        and min(hit.end_seconds, one.end_seconds) - max(hit.start_seconds, one.start_seconds)
        > 0.5 * (hit.end_seconds - hit.start_seconds)
        for one in examples
    )
