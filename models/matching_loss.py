"""Matching of video and text pairs (VTM): hard negatives, the pairs to judge, and their loss.

    videos = draw_negatives(hard_negative_weights(similarity.T, ids))   # one for each text
    texts = draw_negatives(hard_negative_weights(similarity, ids))      # one for each video
    pairs = matching_pairs(videos, texts)
    logits = match(text_hidden[pairs.text_rows], vision_tokens[pairs.video_rows])
    loss = matching_loss(logits, pairs)

Negatives come from the batch of one process. B samples.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Negatives:
    """One negative for each sample of a batch."""

    rows: Tensor
    """int64 [B]: row of the negative in the batch; the sample's own row where there is none."""
    exists: Tensor
    """bool [B]: false where every other sample has the same id."""


@dataclass(frozen=True)
class MatchingPairs:
    """3 B pairs: the true ones, (negative video, text), (video, negative text)."""

    video_rows: Tensor
    """int64 [3 B]: row of each pair's video in the batch."""
    text_rows: Tensor
    """int64 [3 B]: row of each pair's text in the batch."""
    labels: Tensor
    """int64 [3 B]: 1 match, 0 no match."""
    counts: Tensor
    """float32 [3 B]: 0 for a pair that stands in for a negative that does not exist, else 1."""


def hard_negative_weights(
    similarity: Tensor,
    ids: Tensor | None = None,
    *,
    exclude: Literal["before_softmax", "after_softmax"] = "before_softmax",
) -> Tensor:
    """Chance of each column to be drawn as a row's negative: [B, B] -> float32 [B, B].

    similarity: over temperature; row i and column i belong together. ids: int64 [B]; columns of
    an equal id get 0 (None: only the sample itself). A row without any other id is all zero.

    exclude="before_softmax" makes the other rows sum to 1, however unlikely those columns are.
    "after_softmax" is the published way: the same proportions, but rows sum to less, and to zero
    once the positives take all of the softmax.
    """
    if similarity.ndim != 2 or similarity.shape[0] != similarity.shape[1]:
        raise ValueError(f"similarity is {tuple(similarity.shape)}; give a square matrix [B, B]")
    scores = similarity.detach().float()
    same = _same_id(len(scores), ids, scores.device)
    if exclude == "after_softmax":
        return scores.softmax(1).masked_fill(same, 0)
    if exclude == "before_softmax":
        # A row without negatives is softmax(-inf, ...) = nan: the fill makes it zero.
        return scores.masked_fill(same, -torch.inf).softmax(1).masked_fill(same, 0)
    raise ValueError(f"exclude is {exclude!r}; give 'before_softmax' or 'after_softmax'")


def uniform_negative_weights(ids: Tensor) -> Tensor:
    """Equal chances for all samples of another id, for random negatives: float32 [B, B]."""
    return (~_same_id(len(ids), ids, ids.device)).float()


def draw_negatives(
    weights: Tensor, *, generator: torch.Generator | None = None, noise: Tensor | None = None
) -> Negatives:
    """Draw one column a row, in proportion to `weights` [B, B] (0: never).

    noise: float [B, B], used instead of fresh Gumbel noise: the column with the largest
    log(weight) + noise is drawn.
    """
    if noise is None:
        noise = -torch.empty_like(weights).exponential_(generator=generator).log()
    exists = (weights != 0).any(1)
    drawn = (weights.log() + noise).masked_fill(weights == 0, -torch.inf).argmax(1)
    own = torch.arange(len(weights), device=weights.device)
    return Negatives(torch.where(exists, drawn, own), exists)


def matching_pairs(video_negatives: Negatives, text_negatives: Negatives) -> MatchingPairs:
    """The pairs that the matching head has to judge, from one negative each way."""
    own = torch.arange(len(video_negatives.rows), device=video_negatives.rows.device)
    positive = torch.ones_like(own)
    return MatchingPairs(
        video_rows=torch.cat([own, video_negatives.rows, own]),
        text_rows=torch.cat([own, own, text_negatives.rows]),
        labels=torch.cat([positive, torch.zeros_like(own), torch.zeros_like(own)]),
        counts=torch.cat([positive, video_negatives.exists, text_negatives.exists]).float(),
    )


def matching_loss(logits: Tensor, pairs: MatchingPairs) -> Tensor:
    """Mean cross-entropy of logits [3 B, 2] = (no match, match) over the pairs that count."""
    if logits.shape != (len(pairs.labels), 2):
        raise ValueError(f"logits are {tuple(logits.shape)}; give [{len(pairs.labels)}, 2]")
    losses = F.cross_entropy(logits.float(), pairs.labels, reduction="none")
    return (losses * pairs.counts).sum() / pairs.counts.sum()


def _same_id(size: int, ids: Tensor | None, device: torch.device) -> Tensor:
    """bool [B, B]: true where row and column must not be each other's negatives."""
    if ids is None:
        return torch.eye(size, dtype=torch.bool, device=device)
    if ids.shape != (size,):
        raise ValueError(f"ids are {tuple(ids.shape)}; give one for each of {size} samples")
    return ids[:, None] == ids[None, :]
