"""Masked language modelling (MLM): hide caption tokens, ask for them back.

B texts, L text tokens, C text width.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

NOT_ASKED = -100
"""Label of a token that is not asked for."""


@dataclass(frozen=True)
class MaskingDraws:
    """The chance decisions of `mask_tokens`, each [B, L]."""

    chosen: Tensor
    """bool: ask for this token, if it may be asked for."""
    masked: Tensor
    """bool: show [MASK] in place of a chosen token."""
    replaced: Tensor
    """bool: show a random token in place of one chosen but not masked; else show the token."""
    random_ids: Tensor
    """int64: the random tokens."""


@dataclass(frozen=True)
class MaskedTokens:
    """Texts with tokens hidden."""

    input_ids: Tensor
    """int64 [B, L]: what the model sees."""
    labels: Tensor
    """int64 [B, L]: the hidden token, `NOT_ASKED` elsewhere."""


def draw_masking(
    shape: torch.Size,
    *,
    vocab_size: int,
    probability: float = 0.5,
    device: torch.device | str = "cpu",
    generator: torch.Generator | None = None,
) -> MaskingDraws:
    """Choose with `probability`; of the chosen 80 % become [MASK], 10 % random, 10 % stay."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}; give 0 to 1")
    uniform = torch.rand(3, *shape, device=device, generator=generator)
    return MaskingDraws(
        chosen=uniform[0] < probability,
        masked=uniform[1] < 0.8,
        replaced=uniform[2] < 0.5,
        random_ids=torch.randint(vocab_size, shape, device=device, generator=generator),
    )


def mask_tokens(
    input_ids: Tensor,
    *,
    pad_id: int,
    cls_id: int,
    mask_id: int,
    vocab_size: int,
    probability: float = 0.5,
    generator: torch.Generator | None = None,
    draws: MaskingDraws | None = None,
) -> MaskedTokens:
    """Hide tokens of int64 [B, L]; [PAD] and [CLS] never, [SEP] like a word.

    draws: used instead of fresh ones from `generator` (which is of input_ids' device).
    """
    if draws is None:
        draws = draw_masking(
            input_ids.shape,
            vocab_size=vocab_size,
            probability=probability,
            device=input_ids.device,
            generator=generator,
        )
    chosen = draws.chosen & (input_ids != pad_id) & (input_ids != cls_id)
    shown = torch.where(chosen & draws.replaced, draws.random_ids, input_ids)
    shown = shown.masked_fill(chosen & draws.masked, mask_id)
    return MaskedTokens(input_ids=shown, labels=input_ids.masked_fill(~chosen, NOT_ASKED))


def masked_language_loss(
    hidden: Tensor, labels: Tensor, *, head: Callable[[Tensor], Tensor]
) -> Tensor:
    """Mean cross-entropy over the asked tokens; 0 if none is asked.

    hidden [B, L, C], labels int64 [B, L]; head [..., C] -> [..., vocab_size] logits. The head
    only runs on the asked tokens, so the logits of the others never exist.
    """
    if hidden.shape[:-1] != labels.shape:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and labels {tuple(labels.shape)} do not fit; "
            "give [B, L, C] and [B, L]"
        )
    asked = labels != NOT_ASKED
    logits = head(hidden[asked]).float()
    # Summed, as the mean over no token at all is not a number.
    return F.cross_entropy(logits, labels[asked], reduction="sum") / max(len(logits), 1)
