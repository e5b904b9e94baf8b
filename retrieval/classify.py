"""How well a frozen encoder tells classes: by their names, by neighbours, by a linear probe.

Axes: Q videos measured, V examples, E embedding width, K classes.
"""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.models.encoder import Encoder
from reelscan.pretrain.annotations import CaptionedVideo
from reelscan.retrieval.benchmark import Benchmark
from reelscan.retrieval.class_metrics import ClassMetrics, class_metrics
from reelscan.retrieval.embed_set import embed_videos, video_vectors
from reelscan.retrieval.evaluation_report import BrokenVideo, EvaluationProgress
from reelscan.retrieval.evaluation_set import CheckedAnnotations, open_set, refuse_broken
from reelscan.retrieval.feature_cache import FeatureCache
from reelscan.retrieval.known_files import KnownFiles
from reelscan.retrieval.labelled_videos import LabelledVideos
from reelscan.retrieval.probes import linear_probe_scores, nearest_neighbour_scores
from reelscan.retrieval.zero_shot import PROMPTS, check_prompts, class_vectors

Tell = Callable[[EvaluationProgress], None]


@dataclass(frozen=True, kw_only=True)
class ClassifySettings:
    """How classes are told."""

    prompts: tuple[str, ...] = PROMPTS
    """What class names are put into for zero-shot; {} is the name's place."""
    neighbours: int = 20
    """Examples that vote, with --train."""
    batch_size: int = 8
    """Videos embedded at once."""
    workers: int = 2
    """Threads that decode videos."""
    leave_out_broken: bool = False
    """Go on without videos that are missing or broken."""

    def __post_init__(self) -> None:
        check_prompts(self.prompts)
        for name in ("neighbours", "batch_size", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class ClassScores:
    """What one way of telling gives."""

    way: str
    """zero-shot, k-NN or linear probe."""
    metrics: ClassMetrics
    scores: NDArray[np.float32]
    """[Q, K]"""


@dataclass(frozen=True, kw_only=True)
class ClassifyReport:
    """All ways on the same videos."""

    classes: tuple[str, ...]
    videos: tuple[str, ...]
    """Those measured."""
    labels: NDArray[np.int64]
    """[Q]"""
    examples: int
    """Number V; 0 for zero-shot alone."""
    ways: tuple[ClassScores, ...]
    left_out: tuple[BrokenVideo, ...]
    chance: float
    """Top 1 of guessing, in percent."""
    penalty: float | None = None
    """That the linear probe chose."""


@dataclass(frozen=True, kw_only=True)
class _Embedded:
    videos: tuple[str, ...]
    labels: NDArray[np.int64]
    vectors: NDArray[np.float32]
    left_out: tuple[BrokenVideo, ...]


def classify(
    encoder: Encoder,
    measured: LabelledVideos,
    *,
    cache_folder: Path,
    train: LabelledVideos | None = None,
    settings: ClassifySettings | None = None,
    on_progress: Tell,
) -> ClassifyReport:
    """Measure zero-shot classification, and with `train`, k-NN and a linear probe too.

    Vectors are kept in the cache, so that a stopped run goes on. Raises BrokenVideosError, and
    ValueError if the sets do not fit.
    """
    settings = settings or ClassifySettings()
    if train is not None:
        _check_apart(train, measured)
    embed = partial(
        _embed, encoder, cache_folder=cache_folder, settings=settings, on_progress=on_progress
    )
    seen = embed(measured)
    names = class_vectors(encoder, measured.classes, prompts=settings.prompts)
    found = {"zero-shot": seen.vectors @ names.T}
    penalty, examples, left_out = None, 0, seen.left_out
    if train is not None:
        known = embed(train)
        examples, count = len(known.videos), len(measured.classes)
        found["k-NN"] = nearest_neighbour_scores(
            seen.vectors,
            known.vectors,
            known.labels,
            classes=count,
            neighbours=settings.neighbours,
        )
        found["linear probe"], penalty = linear_probe_scores(
            seen.vectors, known.vectors, known.labels, classes=count
        )
        left_out = (*left_out, *known.left_out)
    return ClassifyReport(
        classes=measured.classes,
        videos=seen.videos,
        labels=seen.labels,
        examples=examples,
        ways=tuple(
            ClassScores(way=way, metrics=class_metrics(scores, seen.labels), scores=scores)
            for way, scores in found.items()
        ),
        left_out=left_out,
        chance=100 / len(measured.classes),
        penalty=penalty,
    )


def _embed(
    encoder: Encoder,
    labelled: LabelledVideos,
    *,
    cache_folder: Path,
    settings: ClassifySettings,
    on_progress: Tell,
) -> _Embedded:
    annotated = tuple(
        CaptionedVideo(video=one.video, captions=(str(one.label),)) for one in labelled.videos
    )
    with closing(KnownFiles(cache_folder / "files.sqlite")) as known:
        the_set = open_set(
            Benchmark(name="classes", title="classes", split=""),
            CheckedAnnotations(annotated=annotated, notices=()),
            video_root=labelled.root,
            known=known,
            leave_out_broken=settings.leave_out_broken,
            workers=settings.workers,
            on_done=lambda done, total: on_progress(
                EvaluationProgress(stage="checking videos", done=done, total=total)
            ),
        )
    cache = FeatureCache(cache_folder, encoder)
    embedded = embed_videos(
        encoder,
        the_set.videos,
        cache,
        tokens=False,
        batch_size=settings.batch_size,
        workers=settings.workers,
        on_done=lambda done, total, reused: on_progress(
            EvaluationProgress(stage="embedding videos", done=done, total=total, reused=reused)
        ),
    )
    left_out = (*the_set.left_out, *embedded.broken)
    refuse_broken(
        left_out, total=len(annotated), leave_out=settings.leave_out_broken, root=labelled.root
    )
    return _Embedded(
        videos=tuple(one.video for one in embedded.videos),
        labels=np.array([int(one.texts[0]) for one in embedded.videos], dtype=np.int64),
        vectors=video_vectors(cache, embedded.keys),
        left_out=left_out,
    )


def _check_apart(train: LabelledVideos, measured: LabelledVideos) -> None:
    """The same classes, and no video in both."""
    if train.classes != measured.classes:
        raise ValueError("both sets must have the same classes; give them with --classes")
    places = {(train.root / one.video).resolve() for one in train.videos}
    shared = [
        one.video for one in measured.videos if (measured.root / one.video).resolve() in places
    ]
    if shared:
        raise ValueError(
            f"{len(shared)} videos are in both sets, such as {shared[0]}: results would be too good"
        )
