"""Zero-shot retrieval on an annotated set: every text against every video, in both directions.

Q texts, V videos, T frames, S pixels, E embedding width.
"""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelscan.index.decode_ahead import Decoded, decode_ahead
from reelscan.index.segment_frames import read_whole
from reelscan.models.encoder import Encoder
from reelscan.pretrain.annotations import CaptionedVideo, read_annotations
from reelscan.retrieval.evaluation_report import (
    BothDirections,
    BrokenVideo,
    BrokenVideosError,
    EvaluationProgress,
    EvaluationReport,
    EvaluationScores,
)
from reelscan.retrieval.frame_spool import FrameSpool
from reelscan.retrieval.metrics import chance_metrics, retrieval_metrics
from reelscan.retrieval.rerank import (
    RerankedScores,
    ScoreRule,
    check_score_rule,
    matching_encoder,
    rerank,
)
from reelscan.video.errors import VideoError
from reelscan.video.probe import probe
from reelscan.video.windows import Window

_TEXTS_AT_ONCE = 256

Tell = Callable[[EvaluationProgress], None]


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A video of the set that could be opened."""

    video: str
    texts: tuple[str, ...]
    end_seconds: float | None


@dataclass(frozen=True, kw_only=True)
class _Embedded:
    places: tuple[int, ...]
    """Of the found videos, those that could be decoded: V."""
    vectors: NDArray[np.float32]
    """[V, E]"""
    broken: tuple[BrokenVideo, ...]


def evaluate(
    encoder: Encoder,
    annotations_path: str | os.PathLike[str],
    *,
    video_root: str | os.PathLike[str],
    rerank_top: int | None = None,
    score_rule: ScoreRule = "matching",
    join_captions: bool = False,
    max_seconds: float | None = None,
    leave_out_broken: bool = False,
    batch_size: int = 8,
    workers: int = 2,
    scratch_folder: str | os.PathLike[str] | None = None,
    on_progress: Tell | None = None,
) -> EvaluationReport:
    """Measure retrieval on `[{"video": ..., "caption": "..." or ["...", ...]}, ...]`.

    The published way: the middle frames of the whole video, or with `max_seconds` of its
    beginning (30 for DiDeMo); `join_captions` makes one text of a video's captions (DiDeMo,
    ActivityNet). `rerank_top` (published: 128) adds the ranking by the matching head. Each video
    is decoded once; for reranking the frames wait in a temporary file in `scratch_folder`
    (None: the system's), T * 3 * S * S bytes a video.

    Raises:
        BrokenVideosError: videos are missing or broken, and `leave_out_broken` is off. Files that
            are missing or cannot be opened are found before anything is embedded.
        ValueError: bad annotations or settings, or an encoder that cannot rerank.
    """
    started = time.monotonic()
    for name, value in (
        ("batch_size", batch_size),
        ("workers", workers),
        ("rerank_top", 1 if rerank_top is None else rerank_top),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds}; give a number above 0, or None")
    check_score_rule(score_rule)
    if rerank_top is not None:
        matching_encoder(encoder)
    tell = on_progress or _tell_nobody
    root = Path(video_root)
    annotated = read_annotations(annotations_path, root=root)
    found, broken = _find_videos(
        annotated, root, join_captions=join_captions, max_seconds=max_seconds, tell=tell
    )
    _refuse_broken(broken, annotated, leave_out=leave_out_broken)

    reranks = rerank_top is not None
    with _spool(encoder, clips=len(found), wanted=reranks, folder=scratch_folder) as spool:
        embedded = _embed_videos(
            encoder,
            decode_ahead(
                [one.video for one in found],
                read=_clip_reader(encoder, found, root),
                workers=workers,
                waiting=batch_size,
            ),
            places={one.video: place for place, one in enumerate(found)},
            batch_size=batch_size,
            spool=spool,
            stop_at_failure=not leave_out_broken,
            tell=tell,
        )
        broken += embedded.broken
        _refuse_broken(broken, annotated, leave_out=leave_out_broken)
        scores = _compare(encoder, [found[place] for place in embedded.places], embedded.vectors)
        if rerank_top is not None and spool is not None:
            reranked = rerank(
                matching_encoder(encoder),
                scores.similarity,
                texts=scores.texts,
                video_batches=spool.batches(embedded.places, batch_size=batch_size),
                top=rerank_top,
                score_rule=score_rule,
                on_progress=lambda done, total: tell(
                    EvaluationProgress(stage="matching pairs", done=done, total=total)
                ),
            )
            scores = replace(scores, reranked=reranked)
    return _report(scores, left_out=tuple(broken), seconds=time.monotonic() - started)


def _spool(
    encoder: Encoder, *, clips: int, wanted: bool, folder: str | os.PathLike[str] | None
) -> AbstractContextManager[FrameSpool | None]:
    if not wanted:
        return nullcontext()
    how = encoder.preprocessing
    return closing(FrameSpool(clips, (how.frames, 3, how.size, how.size), folder=folder))


def _find_videos(
    annotated: Sequence[CaptionedVideo],
    root: Path,
    *,
    join_captions: bool,
    max_seconds: float | None,
    tell: Tell,
) -> tuple[list[_Found], list[BrokenVideo]]:
    """Open every video: what fails here would fail hours later otherwise."""
    found: list[_Found] = []
    broken: list[BrokenVideo] = []
    for done, one in enumerate(annotated, start=1):
        path = root / one.video
        try:
            if not path.is_file():
                raise VideoError(one.video, "there is no such file")
            duration = probe(path, name=one.video).duration_seconds
        except VideoError as error:
            broken.append(BrokenVideo(video=one.video, reason=error.reason))
        else:
            cut = max_seconds is not None and max_seconds < duration
            found.append(
                _Found(
                    video=one.video,
                    texts=(" ".join(one.captions),) if join_captions else one.captions,
                    end_seconds=max_seconds if cut else None,
                )
            )
        tell(EvaluationProgress(stage="checking videos", done=done, total=len(annotated)))
    return found, broken


def _clip_reader(
    encoder: Encoder, found: Sequence[_Found], root: Path
) -> Callable[[str], Iterator[Window]]:
    end_seconds = {one.video: one.end_seconds for one in found}

    def read(video: str) -> Iterator[Window]:
        clip = read_whole(
            root / video,
            preprocessing=encoder.preprocessing,
            end_seconds=end_seconds[video],
            name=video,
        )
        yield Window(clip=clip, start_seconds=0.0, end_seconds=clip.times_seconds[-1])

    return read


def _embed_videos(
    encoder: Encoder,
    events: Iterator[Decoded],
    *,
    places: dict[str, int],
    batch_size: int,
    spool: FrameSpool | None,
    stop_at_failure: bool,
    tell: Tell,
) -> _Embedded:
    """Embed the clips as they come; after a failure that ends the run, only look for others."""
    vectors: dict[int, NDArray[np.float32]] = {}
    broken: list[BrokenVideo] = []
    waiting: dict[int, Tensor] = {}

    def encode_waiting() -> None:
        if waiting and not (broken and stop_at_failure):
            encoded = encoder.encode_video(torch.stack(list(waiting.values()))).numpy()
            vectors.update(zip(waiting, encoded, strict=True))
            done = len(vectors) + len(broken)
            tell(EvaluationProgress(stage="embedding videos", done=done, total=len(places)))
        waiting.clear()

    for event in events:
        if event.failure is not None:
            broken.append(BrokenVideo(video=event.video, reason=event.failure))
        elif event.window is not None:
            place = places[event.video]
            waiting[place] = event.window.clip.frames_uint8
            if spool is not None:
                spool.put(place, waiting[place])
            if len(waiting) == batch_size:
                encode_waiting()
    encode_waiting()
    kept = tuple(sorted(vectors))
    stacked = np.stack([vectors[place] for place in kept]) if kept else np.empty((0, 0), np.float32)
    return _Embedded(places=kept, vectors=stacked, broken=tuple(broken))


def _compare(
    encoder: Encoder, kept: Sequence[_Found], vectors: NDArray[np.float32]
) -> EvaluationScores:
    """The similarity of every text with every video's vector [V, E]."""
    texts = tuple(text for one in kept for text in one.texts)
    text_vectors = np.concatenate(
        [
            encoder.encode_text(list(texts[start : start + _TEXTS_AT_ONCE])).numpy()
            for start in range(0, len(texts), _TEXTS_AT_ONCE)
        ]
    )
    return EvaluationScores(
        videos=tuple(one.video for one in kept),
        texts=texts,
        text_video=tuple(place for place, one in enumerate(kept) for _ in one.texts),
        similarity=text_vectors @ vectors.T,
        reranked=None,
    )


def _report(
    scores: EvaluationScores, *, left_out: tuple[BrokenVideo, ...], seconds: float
) -> EvaluationReport:
    video_texts: list[list[int]] = [[] for _ in scores.videos]
    for text, video in enumerate(scores.text_video):
        video_texts[video].append(text)

    def both(
        text_to_video: NDArray[np.float32], video_to_text: NDArray[np.float32]
    ) -> BothDirections:
        return BothDirections(
            text_to_video=retrieval_metrics(text_to_video, scores.text_video),
            video_to_text=retrieval_metrics(video_to_text, video_texts),
        )

    reranked: RerankedScores | None = scores.reranked
    return EvaluationReport(
        embedding=both(scores.similarity, scores.similarity.T),
        reranked=both(reranked.text_to_video, reranked.video_to_text) if reranked else None,
        chance=BothDirections(
            text_to_video=chance_metrics(
                target_counts=[1] * len(scores.texts), candidates=len(scores.videos)
            ),
            video_to_text=chance_metrics(
                target_counts=[len(own) for own in video_texts], candidates=len(scores.texts)
            ),
        ),
        left_out=left_out,
        seconds=seconds,
        scores=scores,
    )


def _refuse_broken(
    broken: Sequence[BrokenVideo], annotated: Sequence[CaptionedVideo], *, leave_out: bool
) -> None:
    if broken and (not leave_out or len(broken) == len(annotated)):
        raise BrokenVideosError(broken, total=len(annotated))


def _tell_nobody(_: EvaluationProgress) -> None:
    pass
