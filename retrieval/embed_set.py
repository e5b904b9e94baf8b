"""Features of a set's videos and texts: what the cache lacks is computed and put there.

Q texts, V videos, B videos at a time, T frames, S pixels, E embedding width.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelscan.index.decode_ahead import decode_ahead
from reelscan.index.segment_frames import read_whole
from reelscan.models.encoder import Encoder, MatchingEncoder, OnePassEncoder
from reelscan.retrieval.evaluation_report import BrokenVideo
from reelscan.retrieval.evaluation_set import SetVideo
from reelscan.retrieval.feature_cache import FeatureCache, TextStates, states_of
from reelscan.video.windows import Window

TEXTS_AT_ONCE = 256

OnFeatures = Callable[[int, int, int], None]
"""Receives what is done, the total, and how much of the done was there before."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedVideos:
    """The videos that could be decoded, and the others."""

    videos: tuple[SetVideo, ...]
    keys: tuple[str, ...]
    """What the cache calls their features."""
    broken: tuple[BrokenVideo, ...]


def embed_videos(
    encoder: Encoder,
    videos: Sequence[SetVideo],
    cache: FeatureCache,
    *,
    tokens: bool,
    batch_size: int,
    workers: int,
    on_done: OnFeatures,
) -> EmbeddedVideos:
    """Make sure that the cache holds every video's vector, and its tokens if wanted.

    A video that cannot be decoded does not stop the others: they are kept for the next run.
    Raises ValueError if a vector is not finite, or the disk is full.
    """
    keys = {one.video: cache.video_key(one.sha256, end_seconds=one.end_seconds) for one in videos}
    absent = [one for one in videos if not cache.has_video(keys[one.video], tokens=tokens)]
    reused, failed = len(videos) - len(absent), dict[str, str]()
    done = reused
    on_done(done, len(videos), reused)
    waiting: dict[str, Tensor] = {}

    def encode_waiting() -> None:
        nonlocal done
        if waiting:
            _encode(encoder, waiting, cache, keys, tokens=tokens)
            done += len(waiting)
            on_done(done + len(failed), len(videos), reused)
        waiting.clear()

    for event in decode_ahead(
        [one.video for one in absent],
        read=_clip_reader(encoder, absent),
        workers=workers,
        waiting=batch_size,
    ):
        if event.failure is not None:
            failed[event.video] = event.failure
        elif event.window is not None:
            waiting[event.video] = event.window.clip.frames_uint8
            if len(waiting) == batch_size:
                encode_waiting()
    encode_waiting()
    kept = tuple(one for one in videos if one.video not in failed)
    return EmbeddedVideos(
        videos=kept,
        keys=tuple(keys[one.video] for one in kept),
        broken=tuple(BrokenVideo(video=video, reason=why) for video, why in failed.items()),
    )


def video_vectors(cache: FeatureCache, keys: Sequence[str]) -> NDArray[np.float32]:
    """[V, E]"""
    return torch.stack([cache.video_vector(key) for key in keys]).numpy()


def embed_texts(
    encoder: Encoder,
    texts: Sequence[str],
    cache: FeatureCache,
    *,
    states: bool,
    on_done: OnFeatures,
) -> tuple[str, ...]:
    """Make sure that the cache holds the texts' vectors, and hidden states if wanted.

    Returns what the cache calls each part of `TEXTS_AT_ONCE` texts.
    """
    parts = [
        list(texts[start : start + TEXTS_AT_ONCE]) for start in range(0, len(texts), TEXTS_AT_ONCE)
    ]
    keys = tuple(cache.text_key(part) for part in parts)
    present = [cache.has_texts(key, states=states) for key in keys]
    reused = sum(len(part) for part, there in zip(parts, present, strict=True) if there)
    done = reused
    on_done(done, len(texts), reused)
    for part, key, there in zip(parts, keys, present, strict=True):
        if there:
            continue
        vectors, hidden = _encode_texts(encoder, part, states=states)
        cache.put_texts(key, vectors, hidden)
        done += len(part)
        on_done(done, len(texts), reused)
    return keys


def text_vectors(cache: FeatureCache, keys: Sequence[str]) -> NDArray[np.float32]:
    """[Q, E]"""
    return torch.cat([cache.text_vectors(key) for key in keys]).numpy()


def _encode(
    encoder: Encoder,
    clips: dict[str, Tensor],
    cache: FeatureCache,
    keys: dict[str, str],
    *,
    tokens: bool,
) -> None:
    frames_uint8 = torch.stack(list(clips.values()))
    all_tokens: Sequence[Tensor | None] = [None] * len(clips)
    if tokens and isinstance(encoder, OnePassEncoder):
        features = encoder.video_features(frames_uint8)
        vectors, all_tokens = features.vectors, list(features.tokens)
    else:
        vectors = encoder.encode_video(frames_uint8)
        if tokens:
            assert isinstance(encoder, MatchingEncoder)
            all_tokens = list(encoder.video_tokens(frames_uint8))
    for video, vector, own in zip(clips, vectors, all_tokens, strict=True):
        _check_finite(vector, f"the vector of {video}")
        cache.put_video(keys[video], vector, own)


def _encode_texts(
    encoder: Encoder, texts: list[str], *, states: bool
) -> tuple[Tensor, TextStates | None]:
    if not states:
        vectors, hidden = encoder.encode_text(texts), None
    elif isinstance(encoder, OnePassEncoder):
        features = encoder.text_features(texts)
        vectors, tokens = features.vectors, features.tokens
        hidden = states_of(tokens.hidden, tokens.attention_mask)
    else:
        assert isinstance(encoder, MatchingEncoder)
        vectors, tokens = encoder.encode_text(texts), encoder.text_tokens(texts)
        hidden = states_of(tokens.hidden, tokens.attention_mask)
    _check_finite(vectors, f"vectors of texts such as {texts[0]!r}")
    return vectors, hidden


def _check_finite(vectors: Tensor, what: str) -> None:
    if not torch.isfinite(vectors).all():
        raise ValueError(f"{what}: there are NaN or infinite values, so the encoder is broken")


def _clip_reader(encoder: Encoder, videos: Sequence[SetVideo]) -> Callable[[str], Iterator[Window]]:
    by_name = {one.video: one for one in videos}

    def read(video: str) -> Iterator[Window]:
        one = by_name[video]
        clip = read_whole(
            one.path,
            preprocessing=encoder.preprocessing,
            end_seconds=one.end_seconds,
            name=video,
        )
        yield Window(clip=clip, start_seconds=0.0, end_seconds=clip.times_seconds[-1])

    return read
