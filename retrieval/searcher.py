"""Finding moments from a sentence or from an example video."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from reelscan.index.collection import Collection, SegmentHit
from reelscan.index.manifest import FingerprintMismatch
from reelscan.index.segment_frames import read_segment, read_whole
from reelscan.models.encoder import Encoder
from reelscan.retrieval.rerank import matching_encoder
from reelscan.video.errors import VideoError

_CLIPS_AT_ONCE = 8


@dataclass(frozen=True, kw_only=True)
class SearchHit:
    """A moment that answers a query."""

    video: str
    """Relative to the collection's folder of videos."""
    start_seconds: float
    end_seconds: float
    score: float
    """Similarity, about -1 to 1; after reranking the matching logit."""
    path: Path
    """Where the video's file lies."""


class Searcher:
    """Answers queries from one collection with the encoder that made it."""

    def __init__(self, collection: Collection, encoder: Encoder) -> None:
        """Raises FingerprintMismatch when another encoder made the collection."""
        made_with = collection.manifest.fingerprint
        if encoder.fingerprint != made_with:
            raise FingerprintMismatch(
                collection=made_with, encoder=encoder.fingerprint, path=collection.path
            )
        self._collection = collection
        self._encoder = encoder

    def search(
        self,
        query: str | Path,
        *,
        top: int = 10,
        one_per_video: bool = False,
        rerank: bool = False,
        rerank_candidates: int = 64,
    ) -> list[SearchHit]:
        """The `top` moments for a sentence (`str`) or an example video (`Path`), best first.

        `one_per_video` keeps the best moment of each video. `rerank` reads the best
        `rerank_candidates` moments again and orders them by the matching head: better and slower,
        for sentences only.

        Raises:
            ValueError: the query is empty, the collection is empty, the encoder cannot rerank, or
                a video cannot be read (VideoError).
            FileNotFoundError: the example video does not exist.
        """
        if top < 1 or rerank_candidates < 1:
            raise ValueError(
                f"top is {top}, rerank_candidates {rerank_candidates}; give at least 1"
            )
        if rerank and not isinstance(query, str):
            raise ValueError(
                "rerank compares a sentence with videos, and the query is a video: "
                "search without rerank"
            )
        vector = self._embed(query)
        if len(self._collection) == 0:
            raise ValueError(f"{self._collection.path} holds no segments yet: embed videos first")
        found = self._collection.search(
            vector[None],
            top=max(top, rerank_candidates) if rerank else top,
            one_per_video=one_per_video,
        )[0]
        if isinstance(query, str) and rerank:
            found = self._by_matching(query, found)[:top]
        return [self._hit(segment) for segment in found]

    def _embed(self, query: str | Path) -> NDArray[np.float32]:
        if isinstance(query, str):
            if not query.strip():
                raise ValueError("the query is empty: describe what to look for in a sentence")
            return self._encoder.encode_text([query])[0].numpy()
        if not query.is_file():
            raise FileNotFoundError(
                f"there is no video {query}: give the path of an example video, or a sentence as "
                "plain text"
            )
        clip = read_whole(query, preprocessing=self._encoder.preprocessing, name=query.name)
        vector = self._encoder.encode_video(clip.frames_uint8[None])[0]
        # A video's vector is a mean, shorter than 1; length 1 makes its scores comparable.
        return torch.nn.functional.normalize(vector, dim=0).numpy()

    def _by_matching(self, query: str, found: Sequence[SegmentHit]) -> list[SegmentHit]:
        encoder = matching_encoder(self._encoder)
        logits: list[float] = []
        text = encoder.text_tokens([query])
        for start in range(0, len(found), _CLIPS_AT_ONCE):
            some = found[start : start + _CLIPS_AT_ONCE]
            clips = torch.stack([self._frames(segment) for segment in some])
            tokens = encoder.video_tokens(clips)
            logits += encoder.match(text[[0] * len(some)], tokens).tolist()
        order = sorted(range(len(found)), key=lambda place: -logits[place])
        return [replace(found[place], score=logits[place]) for place in order]

    def _frames(self, segment: SegmentHit) -> torch.Tensor:
        path = self._collection.video_path(segment.video)
        if not path.is_file():
            raise VideoError(
                segment.video,
                f"is gone from {path.parent}, so it cannot be read for reranking: embed the folder "
                "again, or search without rerank",
            )
        return read_segment(
            path,
            start_seconds=segment.start_seconds,
            end_seconds=segment.end_seconds,
            windowing=self._collection.manifest.windowing,
            preprocessing=self._encoder.preprocessing,
            name=segment.video,
        ).frames_uint8

    def _hit(self, segment: SegmentHit) -> SearchHit:
        return SearchHit(
            video=segment.video,
            start_seconds=segment.start_seconds,
            end_seconds=segment.end_seconds,
            score=segment.score,
            path=self._collection.video_path(segment.video),
        )
