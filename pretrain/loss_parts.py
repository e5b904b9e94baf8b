"""What the objective computes on the way, and what it hands out.

Axes: B clips of this process, T frames, N patch tokens, L caption tokens, C text width,
E embedding width.
"""

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from reelscan.models.clip_vit import TeacherOutput
from reelscan.models.losses import MaskedTokens
from reelscan.models.videomamba import VisionOutput


class LossParts(NamedTuple):
    """Scalars, unweighted but for the total; 0 for a loss that is off.

    A tuple, because that is where DDP and FSDP look for tensors.
    """

    alignment: Tensor
    contrastive: Tensor
    matching: Tensor
    masked_language: Tensor
    distillation: Tensor
    total: Tensor
    """Weighted sum; its mean over processes is what is minimised."""


@dataclass(frozen=True, kw_only=True)
class Embedded:
    """What the contrastive loss needs of a batch."""

    video: Tensor
    """float32 [B, T, E]."""
    text: Tensor
    """float32 [B, E]."""


@dataclass(frozen=True, kw_only=True)
class SharedContrast:
    """A contrastive loss over more than this batch, computed elsewhere (`cached_contrast`)."""

    loss: Tensor
    """Over everything."""
    video_gradient: Tensor
    """Its derivative by this batch's video vectors, times the number of parts: [B, T, E]."""
    text_gradient: Tensor
    """[B, E], alike."""
    parameter_gradients: tuple[Tensor, ...]
    """Its derivatives by `Objective.contrast_parameters`."""


@dataclass(frozen=True, kw_only=True)
class WholeBatch:
    """What one of several parts of a batch has to know of the others."""

    contrast: SharedContrast | None
    """None if that loss is off."""
    asked: Tensor | None
    """float32 []: tokens that the masked language loss asks for, a part; None if it is off."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A batch after both encoders."""

    taught: TeacherOutput | None
    mask: Tensor | None
    """bool [B, 1 + N]."""
    masked: MaskedTokens | None
    vision: VisionOutput
    hidden: Tensor | None
    """[B, L, C], of whole captions."""
    video: Tensor | None
    """[B, T, E]."""
    text: Tensor | None
    """[B, E]."""
