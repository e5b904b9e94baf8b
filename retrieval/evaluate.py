"""Zero-shot retrieval on an annotated set: every text against every video, in both directions.

Features go to a cache on disk, by what made them, so a stopped evaluation goes on where it was and
a second one is quick. Q texts, V videos, E embedding width.
"""

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.models.encoder import Encoder
from reelscan.retrieval.benchmark import Benchmark
from reelscan.retrieval.bootstrap import bootstrap_intervals
from reelscan.retrieval.dual_softmax import TEMPERATURE, dual_softmax
from reelscan.retrieval.embed_set import (
    EmbeddedVideos,
    embed_texts,
    embed_videos,
    text_vectors,
    video_vectors,
)
from reelscan.retrieval.evaluation_report import (
    BothDirections,
    EvaluationProgress,
    EvaluationReport,
    EvaluationScores,
    RankedDirection,
    Ranking,
    RankingName,
    Stage,
)
from reelscan.retrieval.evaluation_set import (
    EvaluationSet,
    open_set,
    read_benchmark_annotations,
    refuse_broken,
)
from reelscan.retrieval.feature_cache import FeatureCache, mapped_states
from reelscan.retrieval.known_files import KnownFiles
from reelscan.retrieval.metrics import chance_metrics, metrics_of_ranks, ranks
from reelscan.retrieval.pair_journal import PairJournal
from reelscan.retrieval.rerank import (
    RerankedScores,
    ScoreRule,
    check_score_rule,
    find_candidates,
    match_candidates,
    matching_encoder,
    reranked_scores,
)

PAIRS_AT_ONCE = 256

Tell = Callable[[EvaluationProgress], None]


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
    cache_folder: str | os.PathLike[str] | None = None,
    on_progress: Tell | None = None,
) -> EvaluationReport:
    """Measure retrieval on `[{"video": ..., "caption": "..." or ["...", ...]}, ...]`.

    The published way: the middle frames of the whole video, or with `max_seconds` of its
    beginning (30 for DiDeMo); `join_captions` makes one text of a video's captions (DiDeMo,
    ActivityNet). `rerank_top` (published: 128) adds the ranking by the matching head. Each video
    is decoded once; features are kept in `cache_folder` (None: in a temporary folder for this
    call), and a run that was stopped finds them there.

    Raises:
        BrokenVideosError: videos are missing or broken, and `leave_out_broken` is off. Files that
            are missing or cannot be opened are found before anything is embedded.
        ValueError: bad annotations or settings, or an encoder that cannot rerank.
    """
    check_settings(
        encoder, batch_size=batch_size, workers=workers, rerank_top=rerank_top, rule=score_rule
    )
    if max_seconds is not None and not max_seconds > 0:
        raise ValueError(f"max_seconds is {max_seconds}; give a number above 0, or None")
    path = Path(annotations_path)
    benchmark = Benchmark(
        name=path.stem,
        title=path.name,
        split="",
        join_captions=join_captions,
        max_seconds=max_seconds,
    )
    tell = on_progress or _tell_nobody
    with folder_for_features(cache_folder) as folder:
        the_set = check_set(
            benchmark,
            path,
            video_root=Path(video_root),
            cache_folder=folder,
            leave_out_broken=leave_out_broken,
            workers=workers,
            on_progress=tell,
        )
        return evaluate_set(
            encoder,
            the_set,
            cache_folder=folder,
            rerank_top=rerank_top,
            score_rule=score_rule,
            leave_out_broken=leave_out_broken,
            batch_size=batch_size,
            workers=workers,
            on_progress=tell,
        )


def check_settings(
    encoder: Encoder, *, batch_size: int, workers: int, rerank_top: int | None, rule: str
) -> None:
    """Raise ValueError for what would fail later."""
    for name, value in (
        ("batch_size", batch_size),
        ("workers", workers),
        ("rerank_top", 1 if rerank_top is None else rerank_top),
    ):
        if value < 1:
            raise ValueError(f"{name} is {value}; give at least 1")
    check_score_rule(rule)
    if rerank_top is not None:
        matching_encoder(encoder)


@contextmanager
def folder_for_features(wanted: str | os.PathLike[str] | None) -> Iterator[Path]:
    """The folder asked for, or one that is gone afterwards."""
    if wanted is not None:
        yield Path(wanted)
        return
    with tempfile.TemporaryDirectory(prefix="reelscan-features-") as temporary:
        yield Path(temporary)


def check_set(
    benchmark: Benchmark,
    annotations_path: Path,
    *,
    video_root: Path,
    cache_folder: Path,
    any_counts: bool = False,
    leave_out_broken: bool = False,
    workers: int = 2,
    on_progress: Tell,
) -> EvaluationSet:
    """Read the annotations and open every video, before anything is embedded.

    Raises as `read_benchmark_annotations` and `open_set` do.
    """
    checked = read_benchmark_annotations(
        benchmark, annotations_path, video_root=video_root, any_counts=any_counts
    )
    with closing(KnownFiles(cache_folder / "files.sqlite")) as known:
        return open_set(
            benchmark,
            checked,
            video_root=video_root,
            known=known,
            leave_out_broken=leave_out_broken,
            workers=workers,
            on_done=lambda done, total: on_progress(
                EvaluationProgress(stage="checking videos", done=done, total=total)
            ),
        )


def evaluate_set(
    encoder: Encoder,
    the_set: EvaluationSet,
    *,
    cache_folder: Path,
    rerank_top: int | None = None,
    score_rule: ScoreRule = "matching",
    dual_softmax_temperature: float = TEMPERATURE,
    leave_out_broken: bool = False,
    batch_size: int = 8,
    workers: int = 2,
    on_progress: Tell,
) -> EvaluationReport:
    """Measure one encoder on a checked set; see `evaluate`."""
    started = time.monotonic()
    reranks = rerank_top is not None
    cache = FeatureCache(cache_folder, encoder)
    embedded = embed_videos(
        encoder,
        the_set.videos,
        cache,
        tokens=reranks,
        batch_size=batch_size,
        workers=workers,
        on_done=partial(_tell_features, on_progress, "embedding videos"),
    )
    left_out = (*the_set.left_out, *embedded.broken)
    refuse_broken(left_out, total=the_set.annotated, leave_out=leave_out_broken, root=None)
    texts = tuple(text for one in embedded.videos for text in one.texts)
    text_keys = embed_texts(
        encoder,
        texts,
        cache,
        states=reranks,
        on_done=partial(_tell_features, on_progress, "embedding texts"),
    )
    similarity = text_vectors(cache, text_keys) @ video_vectors(cache, embedded.keys).T
    reranked = None
    if rerank_top is not None:
        reranked = _rerank(
            encoder,
            similarity,
            cache,
            text_keys=text_keys,
            video_keys=embedded.keys,
            top=rerank_top,
            score_rule=score_rule,
            tell=on_progress,
        )
    scores = _scores(embedded, texts, similarity, reranked)
    return EvaluationReport(
        fingerprint=encoder.fingerprint,
        rankings=_rankings(scores, temperature=dual_softmax_temperature),
        chance=_chance(scores),
        left_out=left_out,
        notices=the_set.notices,
        rerank_top=rerank_top,
        score_rule=score_rule,
        seconds=time.monotonic() - started,
        scores=scores,
    )


def _rerank(
    encoder: Encoder,
    similarity: NDArray[np.float32],
    cache: FeatureCache,
    *,
    text_keys: Sequence[str],
    video_keys: Sequence[str],
    top: int,
    score_rule: ScoreRule,
    tell: Tell,
) -> RerankedScores:
    candidates = find_candidates(similarity, top=top)
    pairs = candidates.of_text | candidates.of_video
    wanted = hashlib.sha256(np.packbits(pairs).tobytes()).hexdigest()
    journal_path = cache.pairs_path([list(text_keys), list(video_keys), wanted])
    with PairJournal(journal_path) as journal, mapped_states(cache, text_keys) as states:
        counts = pairs.sum(axis=0).tolist()
        reused = sum(
            count
            for video, count in enumerate(counts)
            if journal.logits(video, count=count) is not None
        )

        def show(done: int, total: int) -> None:
            if done > reused or done == total:
                _tell_features(tell, "matching pairs", done, total, reused)

        logits = match_candidates(
            matching_encoder(encoder),
            candidates,
            states=states,
            video_tokens=(partial(cache.video_tokens, key) for key in video_keys),
            pairs_at_once=PAIRS_AT_ONCE,
            journal=journal,
            on_progress=show,
        )
    return reranked_scores(logits, candidates, similarity, score_rule=score_rule)


def _scores(
    embedded: EmbeddedVideos,
    texts: tuple[str, ...],
    similarity: NDArray[np.float32],
    reranked: RerankedScores | None,
) -> EvaluationScores:
    videos = embedded.videos
    return EvaluationScores(
        videos=tuple(one.video for one in videos),
        paths=tuple(one.path for one in videos),
        seen_seconds=tuple(one.end_seconds or one.duration_seconds for one in videos),
        texts=texts,
        text_video=tuple(place for place, one in enumerate(videos) for _ in one.texts),
        similarity=similarity,
        reranked=reranked,
    )


def _rankings(scores: EvaluationScores, *, temperature: float) -> tuple[Ranking, ...]:
    texts_of = _texts_of_videos(scores)
    each_video = range(len(scores.videos))

    def ranking(
        name: RankingName,
        text_to_video: NDArray[np.float32],
        video_to_text: NDArray[np.float32],
    ) -> Ranking:
        of_texts = ranks(text_to_video, scores.text_video)
        of_videos = ranks(video_to_text, texts_of)
        return Ranking(
            name=name,
            text_to_video=RankedDirection(
                metrics=metrics_of_ranks(of_texts, candidates=len(scores.videos)),
                intervals=bootstrap_intervals(of_texts, scores.text_video),
                ranks=of_texts,
            ),
            video_to_text=RankedDirection(
                metrics=metrics_of_ranks(of_videos, candidates=len(scores.texts)),
                intervals=bootstrap_intervals(of_videos, each_video),
                ranks=of_videos,
            ),
        )

    similarity, reranked = scores.similarity, scores.reranked
    found = [ranking("embedding", similarity, similarity.T)]
    if reranked is not None:
        found.append(ranking("reranked", reranked.text_to_video, reranked.video_to_text))
    found.append(
        ranking(
            "dual softmax",
            dual_softmax(similarity, temperature=temperature),
            dual_softmax(similarity.T, temperature=temperature),
        )
    )
    return tuple(found)


def _chance(scores: EvaluationScores) -> BothDirections:
    return BothDirections(
        text_to_video=chance_metrics(
            target_counts=[1] * len(scores.texts), candidates=len(scores.videos)
        ),
        video_to_text=chance_metrics(
            target_counts=[len(own) for own in _texts_of_videos(scores)],
            candidates=len(scores.texts),
        ),
    )


def _texts_of_videos(scores: EvaluationScores) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in scores.videos]
    for text, video in enumerate(scores.text_video):
        found[video].append(text)
    return found


def _tell_features(tell: Tell, stage: Stage, done: int, total: int, reused: int) -> None:
    tell(EvaluationProgress(stage=stage, done=done, total=total, reused=reused))


def _tell_nobody(_: EvaluationProgress) -> None:
    pass
