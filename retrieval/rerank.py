"""Re-ordering the best candidates by the matching head, which reads a video and a text together.

Candidates are a text's best videos and a video's best texts by embedding similarity; a pair that
is a candidate in both directions is scored once.
Q texts, V videos, B videos at a time, T frames, S pixels, N tokens of a video, C their width.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from reelscan.models.encoder import Encoder, MatchingEncoder, TextTokens

ScoreRule = Literal["matching", "matching+similarity"]
NO_CANDIDATE_SCORE = -100.0
_TEXTS_AT_ONCE = 256


@dataclass(frozen=True, kw_only=True)
class RerankedScores:
    """Scores by which each direction is ranked."""

    text_to_video: NDArray[np.float32]
    """[Q, V]"""
    video_to_text: NDArray[np.float32]
    """[V, Q]"""


def matching_encoder(encoder: Encoder) -> MatchingEncoder:
    """The same encoder. Raises ValueError if it has no matching head, or an untrained one."""
    if not isinstance(encoder, MatchingEncoder):
        raise ValueError(f"{type(encoder).__name__} has no matching head: do without reranking")
    if not encoder.can_match:
        raise ValueError(
            "this model was trained without the matching loss, so it cannot rerank: do without, "
            "or use a model that was (losses.matching above 0)"
        )
    return encoder


def rerank(
    encoder: MatchingEncoder,
    similarity: NDArray[np.float32],
    *,
    texts: Sequence[str],
    video_batches: Iterable[Tensor],
    top: int = 128,
    score_rule: ScoreRule = "matching",
    pairs_at_once: int = 64,
    on_progress: Callable[[int, int], None] | None = None,
) -> RerankedScores:
    """Score the `top` candidates of every text and of every video.

    Args:
        encoder: the model with the matching head.
        similarity: [Q, V], embedding scores.
        texts: the Q texts.
        video_batches: frames, uint8 [B, T, 3, S, S], of the V videos in order; read once, so only
            one batch of tokens is held.
        top: candidates a query.
        score_rule: "matching" is the published rule: the matching logit alone, and -100 for what
            is no candidate. "matching+similarity" adds the embedding similarity to both, which
            keeps the embedding order behind the candidates.
        pairs_at_once: pairs given to the matching head in one call.
        on_progress: receives the pairs done and their total.

    Raises:
        ValueError: shapes disagree, or a logit is not finite.
    """
    if top < 1 or pairs_at_once < 1:
        raise ValueError(f"top is {top}, pairs_at_once {pairs_at_once}; give at least 1")
    check_score_rule(score_rule)
    if similarity.ndim != 2 or len(similarity) != len(texts):
        raise ValueError(
            f"similarity has the shape {similarity.shape}; "
            f"it should be [{len(texts)} texts, videos]"
        )
    of_text = _best(similarity, top)
    of_video = _best(similarity.T, top).T
    logits = _match_pairs(
        encoder,
        of_text | of_video,
        texts=texts,
        video_batches=video_batches,
        pairs_at_once=pairs_at_once,
        on_progress=on_progress,
    )
    extra = similarity if score_rule == "matching+similarity" else np.float32(0)
    return RerankedScores(
        text_to_video=np.where(of_text, logits, NO_CANDIDATE_SCORE).astype(np.float32) + extra,
        video_to_text=(np.where(of_video, logits, NO_CANDIDATE_SCORE).astype(np.float32) + extra).T,
    )


def check_score_rule(score_rule: str) -> None:
    """Raise ValueError unless it is a `ScoreRule`."""
    if score_rule not in get_args(ScoreRule):
        raise ValueError(f"score_rule is {score_rule!r}; choose one of {get_args(ScoreRule)}")


def _best(similarity: NDArray[np.float32], top: int) -> NDArray[np.bool_]:
    """True at each row's `top` highest scores; of equal ones the first."""
    columns = np.argsort(-similarity, axis=1, kind="stable")[:, :top]
    chosen = np.zeros(similarity.shape, np.bool_)
    np.put_along_axis(chosen, columns, True, axis=1)
    return chosen


def _match_pairs(
    encoder: MatchingEncoder,
    pairs: NDArray[np.bool_],
    *,
    texts: Sequence[str],
    video_batches: Iterable[Tensor],
    pairs_at_once: int,
    on_progress: Callable[[int, int], None] | None,
) -> NDArray[np.float32]:
    """Matching logits [Q, V]; zero where `pairs` [Q, V] is False."""
    text_hidden = _hidden_of_texts(encoder, texts)
    logits = np.zeros(pairs.shape, np.float32)
    done, total, video = 0, int(pairs.sum()), 0
    for frames_uint8 in video_batches:
        for tokens in encoder.video_tokens(frames_uint8):
            if video == pairs.shape[1]:
                raise ValueError(f"video_batches hold more than the {video} videos of similarity")
            rows = np.flatnonzero(pairs[:, video])
            for start in range(0, len(rows), pairs_at_once):
                some = rows[start : start + pairs_at_once].tolist()
                text_tokens = _padded([text_hidden[row] for row in some])
                matched = encoder.match(text_tokens, tokens.expand(len(some), -1, -1))
                logits[some, video] = matched.numpy()
                done += len(some)
                if on_progress is not None:
                    on_progress(done, total)
            video += 1
    if video != pairs.shape[1]:
        raise ValueError(f"video_batches hold {video} videos, but similarity {pairs.shape[1]}")
    if not np.isfinite(logits).all():
        raise ValueError("the matching head gave values that are not finite: the model is broken")
    return logits


def _hidden_of_texts(encoder: MatchingEncoder, texts: Sequence[str]) -> list[Tensor]:
    """Each text's hidden states [L, C] without padding, which would be most of the memory."""
    found: list[Tensor] = []
    for start in range(0, len(texts), _TEXTS_AT_ONCE):
        tokens = encoder.text_tokens(list(texts[start : start + _TEXTS_AT_ONCE]))
        for hidden, mask in zip(tokens.hidden, tokens.attention_mask.bool(), strict=True):
            found.append(hidden[mask])
    return found


def _padded(hidden: Sequence[Tensor]) -> TextTokens:
    """Hidden states [L, C] of some texts as one batch."""
    lengths = torch.tensor([len(one) for one in hidden])
    return TextTokens(
        hidden=pad_sequence(list(hidden), batch_first=True),
        attention_mask=torch.arange(int(lengths.max())) < lengths[:, None],
    )
