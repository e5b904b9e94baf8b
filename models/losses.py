"""The four pretraining losses in one place to import from."""

from reelscan.models.alignment_loss import alignment_loss
from reelscan.models.contrastive_loss import (
    clamp_temperature_,
    contrastive_loss,
    contrastive_targets,
    frame_similarity,
    sigmoid_loss,
)
from reelscan.models.masked_language_loss import (
    MaskedTokens,
    MaskingDraws,
    draw_masking,
    mask_tokens,
    masked_language_loss,
)
from reelscan.models.matching_loss import (
    MatchingPairs,
    Negatives,
    draw_negatives,
    hard_negative_weights,
    matching_loss,
    matching_pairs,
    uniform_negative_weights,
)

__all__ = [
    "MaskedTokens",
    "MaskingDraws",
    "MatchingPairs",
    "Negatives",
    "alignment_loss",
    "clamp_temperature_",
    "contrastive_loss",
    "contrastive_targets",
    "draw_masking",
    "draw_negatives",
    "frame_similarity",
    "hard_negative_weights",
    "mask_tokens",
    "masked_language_loss",
    "matching_loss",
    "matching_pairs",
    "sigmoid_loss",
    "uniform_negative_weights",
]
