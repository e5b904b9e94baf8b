"""Re-ordering the best candidates by the matching head, which reads a video and a text together.

Candidates are a text's best videos and a video's best texts by embedding similarity; a pair that
is a candidate in both directions is scored once.
Q texts, V videos, B videos at a time, T frames, S pixels, N tokens of a video, C their width.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reelscan.models.encoder import Encoder, MatchingEncoder, TextTokens
from reelscan.retrieval.feature_cache import TextStates, states_of
from reelscan.retrieval.pair_journal import PairJournal

ScoreRule = Literal["matching", "matching+similarity"]
NO_CANDIDATE_SCORE = -100.0
_TEXTS_AT_ONCE = 256
_SORTED_AT_ONCE = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Which pairs are scored by the matching head."""

    of_text: NDArray[np.bool_]
    """[Q, V]: the video is among the best of the text."""
    of_video: NDArray[np.bool_]
    """[Q, V]: the text is among the best of the video."""


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
    check_score_rule(score_rule)
    if similarity.ndim != 2 or len(similarity) != len(texts):
        raise ValueError(
            f"similarity has the shape {similarity.shape}; "
            f"it should be [{len(texts)} texts, videos]"
        )
    candidates = find_candidates(similarity, top=top)
    logits = match_candidates(
        encoder,
        candidates,
        states=_states_of_texts(encoder, texts),
        video_tokens=_tokens_of_batches(encoder, video_batches, videos=similarity.shape[1]),
        pairs_at_once=pairs_at_once,
        on_progress=on_progress,
    )
    return reranked_scores(logits, candidates, similarity, score_rule=score_rule)


def find_candidates(similarity: NDArray[np.float32], *, top: int) -> Candidates:
    """The `top` videos of each text and the `top` texts of each video."""
    if top < 1:
        raise ValueError(f"top is {top}; give at least 1")
    return Candidates(of_text=_best(similarity, top), of_video=_best(similarity.T, top).T)


def match_candidates(
    encoder: MatchingEncoder,
    candidates: Candidates,
    *,
    states: TextStates,
    video_tokens: Iterable[Callable[[], Tensor]],
    pairs_at_once: int = 64,
    journal: PairJournal | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> NDArray[np.float32]:
    """Matching logits [Q, V] of all candidates, zero elsewhere.

    One video's tokens are held at a time.

    Args:
        encoder: the model with the matching head.
        candidates: which pairs are wanted.
        states: the texts' hidden states, which may be memory-mapped.
        video_tokens: for each of the V videos in order what gives its tokens [N, C].
        pairs_at_once: pairs given to the matching head in one call.
        journal: keeps finished videos, and has those of an earlier run.
        on_progress: receives the pairs done and their total.

    Raises ValueError if a logit is not finite or the numbers of videos disagree.
    """
    if pairs_at_once < 1:
        raise ValueError(f"pairs_at_once is {pairs_at_once}; give at least 1")
    pairs = candidates.of_text | candidates.of_video
    logits = np.zeros(pairs.shape, np.float32)
    starts = states.lengths.cumsum(0) - states.lengths
    done, total = 0, int(pairs.sum())
    for video, tokens_of in enumerate(video_tokens):
        rows = np.flatnonzero(pairs[:, video])
        known = journal.logits(video, count=len(rows)) if journal is not None else None
        if known is not None:
            logits[rows, video] = known
            done += len(rows)
            if on_progress is not None:
                on_progress(done, total)
            continue
        tokens = tokens_of()
        # Texts of like length together, so that little is padded.
        rows = rows[np.argsort(states.lengths.numpy()[rows], kind="stable")]
        for start in range(0, len(rows), pairs_at_once):
            some = rows[start : start + pairs_at_once]
            text_tokens = _padded(states, starts, torch.from_numpy(some))
            matched = encoder.match(text_tokens, tokens[None].expand(len(some), -1, -1)).numpy()
            if not np.isfinite(matched).all():
                raise ValueError(
                    "the matching head gave values that are not finite: the model is broken"
                )
            logits[some, video] = matched
            done += len(some)
            if on_progress is not None:
                on_progress(done, total)
        if journal is not None:
            journal.add(video, logits[np.flatnonzero(pairs[:, video]), video])
    return logits


def reranked_scores(
    logits: NDArray[np.float32],
    candidates: Candidates,
    similarity: NDArray[np.float32],
    *,
    score_rule: ScoreRule,
) -> RerankedScores:
    """What each direction is ranked by, from matching logits [Q, V]; see `rerank` for the rules."""
    check_score_rule(score_rule)
    extra = similarity if score_rule == "matching+similarity" else np.float32(0)
    no_candidate = np.float32(NO_CANDIDATE_SCORE)
    return RerankedScores(
        text_to_video=np.where(candidates.of_text, logits, no_candidate) + extra,
        video_to_text=(np.where(candidates.of_video, logits, no_candidate) + extra).T,
    )


def check_score_rule(score_rule: str) -> None:
    """Raise ValueError unless it is a `ScoreRule`."""
    if score_rule not in get_args(ScoreRule):
        raise ValueError(f"score_rule is {score_rule!r}; choose one of {get_args(ScoreRule)}")


def _best(similarity: NDArray[np.float32], top: int) -> NDArray[np.bool_]:
    """True at each row's `top` highest scores; of equal ones the first."""
    chosen = np.zeros(similarity.shape, np.bool_)
    rows_at_once = max(1, _SORTED_AT_ONCE // max(1, similarity.shape[1]))
    for start in range(0, len(similarity), rows_at_once):
        some = slice(start, start + rows_at_once)
        columns = np.argsort(-similarity[some], axis=1, kind="stable")[:, :top]
        np.put_along_axis(chosen[some], columns, True, axis=1)
    return chosen


def _tokens_of_batches(
    encoder: MatchingEncoder, video_batches: Iterable[Tensor], *, videos: int
) -> Iterator[Callable[[], Tensor]]:
    """For each video what gives its tokens; raises ValueError unless there are `videos`."""
    found = 0
    for frames_uint8 in video_batches:
        for tokens in encoder.video_tokens(frames_uint8):
            if found == videos:
                raise ValueError(f"video_batches hold more than the {videos} videos of similarity")
            found += 1
            yield partial(_same, tokens)
    if found != videos:
        raise ValueError(f"video_batches hold {found} videos, but similarity {videos}")


def _same(tokens: Tensor) -> Tensor:
    return tokens


def _states_of_texts(encoder: MatchingEncoder, texts: Sequence[str]) -> TextStates:
    """The texts' hidden states without padding, which would be most of the memory."""
    parts = [
        states_of(tokens.hidden, tokens.attention_mask)
        for start in range(0, len(texts), _TEXTS_AT_ONCE)
        for tokens in [encoder.text_tokens(list(texts[start : start + _TEXTS_AT_ONCE]))]
    ]
    return TextStates(
        hidden=torch.cat([part.hidden for part in parts]),
        lengths=torch.cat([part.lengths for part in parts]),
    )


def _padded(states: TextStates, starts: Tensor, rows: Tensor) -> TextTokens:
    """The hidden states of some texts [B, L, C]; behind a text's end are those of others."""
    lengths = states.lengths[rows]
    places = torch.arange(int(lengths.max()))
    wanted = (starts[rows][:, None] + places).clamp_(max=len(states.hidden) - 1)
    return TextTokens(hidden=states.hidden[wanted], attention_mask=places < lengths[:, None])
