"""The best moments of a search read again, beside its sentence, by the matching head.

N tokens of a moment, C their width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelscan.index.segment_frames import read_segment
from reelscan.index.windowing import Windowing
from reelscan.models.encoder import MatchingEncoder
from reelscan.retrieval.moments import SearchHit
from reelscan.retrieval.query import Query
from reelscan.retrieval.token_cache import TokenCache, token_key
from reelscan.video.errors import VideoError

_CLIPS_AT_ONCE = 8


def check_can_rerank(query: Query) -> None:
    """Raise ValueError unless every part is a sentence."""
    if len(query.sentences) < len(query.parts):
        raise ValueError(
            "rerank compares sentences with videos, and the query has an example picture or video: "
            "search without rerank"
        )


def matching_logits(
    encoder: MatchingEncoder,
    query: Query,
    hits: Sequence[SearchHit],
    *,
    windowing: Windowing,
    cache: TokenCache | None = None,
) -> NDArray[np.float32]:
    """[hits, parts]: the logit of each of the query's sentences with each hit.

    Tokens come from `cache` where it has them. Raises VideoError for a video that is gone.
    """
    texts = encoder.text_tokens([part.text or "" for part in query.parts])
    logits: list[Tensor] = []
    for start in range(0, len(hits), _CLIPS_AT_ONCE):
        for tokens in _tokens(encoder, hits[start : start + _CLIPS_AT_ONCE], windowing, cache):
            logits.append(encoder.match(texts, tokens[None].expand(len(query.parts), -1, -1)))
    return torch.stack(logits).numpy() if logits else np.empty((0, len(query.parts)), np.float32)


def _tokens(
    encoder: MatchingEncoder,
    hits: Sequence[SearchHit],
    windowing: Windowing,
    cache: TokenCache | None,
) -> list[Tensor]:
    """Of each hit [N, C]."""
    keys = [token_key(encoder, hit, windowing) for hit in hits]
    known = {} if cache is None else cache.get_all(keys)
    absent = [place for place, key in enumerate(keys) if key not in known]
    if absent:
        clips = torch.stack([_frames(encoder, hits[place], windowing) for place in absent])
        for place, tokens in zip(absent, encoder.video_tokens(clips), strict=True):
            known[keys[place]] = tokens
            if cache is not None:
                cache.put(keys[place], tokens)
    return [known[key] for key in keys]


def _frames(encoder: MatchingEncoder, hit: SearchHit, windowing: Windowing) -> Tensor:
    if not hit.path.is_file():
        raise VideoError(
            hit.video,
            f"is gone from {hit.path.parent}, so it cannot be read for reranking: embed the folder "
            "again, or search without rerank",
        )
    return read_segment(
        hit.path,
        start_seconds=hit.start_seconds,
        end_seconds=hit.end_seconds,
        windowing=windowing,
        preprocessing=encoder.preprocessing,
        name=hit.video,
    ).frames_uint8
