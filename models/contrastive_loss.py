"""Contrastive losses of videos and texts (VTC), over the batch of one process or of all.

Similarity is cosine, averaged over the frames of a video, divided by the temperature. Samples
with equal ids are each other's positives and share the target.

B local samples, G samples of all processes (G = B x processes), T frames, E embedding width.
"""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from reelscan.models.norm import at_least_float32


def frame_similarity(
    video: Tensor,
    text: Tensor,
    *,
    temperature: Tensor | float = 1.0,
    over_frames: Literal["mean", "max"] = "mean",
) -> Tensor:
    """Cosine of each video [V, T, E] or [V, E] with each text [Q, E], over temperature: [V, Q].

    Neither needs unit length. The mean or maximum over frames is that of the cosines. Computed in
    float32 or wider also under autocast: division by a small temperature enlarges every rounding
    error.
    """
    if video.ndim not in (2, 3) or text.ndim != 2 or video.shape[-1] != text.shape[-1]:
        raise ValueError(
            f"video {tuple(video.shape)} and text {tuple(text.shape)} do not fit; "
            "give [V, T, E] or [V, E], and [Q, E] of the same E"
        )
    if over_frames not in ("mean", "max"):
        raise ValueError(f"over_frames is {over_frames!r}; give 'mean' or 'max'")
    with torch.autocast(video.device.type, enabled=False):
        frames = F.normalize(at_least_float32(video), dim=-1)
        text = F.normalize(at_least_float32(text), dim=-1)
        if frames.ndim == 2:
            return frames @ text.T / temperature
        if over_frames == "mean":
            return frames.mean(1) @ text.T / temperature
        return (frames @ text.T).amax(1) / temperature


def contrastive_loss(
    video: Tensor,
    text: Tensor,
    *,
    temperature: Tensor | float,
    ids: Tensor | None = None,
    all_video: Tensor | None = None,
    all_text: Tensor | None = None,
    all_ids: Tensor | None = None,
    row_offset: int = 0,
    gathered_gradient: Literal["true", "local_slice"] = "true",
) -> Tensor:
    """Soft-target cross-entropy in both directions, averaged; a scalar in float32 or wider.

    video [B, T, E] or [B, E] and text [B, E] belong together row by row. ids: int64 [B], equal
    for samples that show the same thing; None: every sample is its own.

    With several processes give all_video, all_text [G, ...] (and all_ids [G]) too, gathered in
    the order of ranks, and row_offset, where this process's samples start in them. Local rows
    then meet all columns, and the mean of the losses over processes is the loss of the whole
    batch (B must be the same everywhere). If the gather lets gradients through (its backward sums
    over processes), the mean over processes of the gradients is the true one.

    gathered_gradient="local_slice" is the published way instead: every process computes the
    whole loss, and gradients reach its own samples alone, so that averaging over W processes
    leaves 1/W of the true gradient for the encoders but all of it for the temperature.
    """
    columns_video, columns_text, columns_ids = _columns(
        video, text, ids, all_video, all_text, all_ids, row_offset
    )
    if gathered_gradient == "local_slice":
        video = columns_video = _only_local_gradient(video, columns_video, row_offset)
        text = columns_text = _only_local_gradient(text, columns_text, row_offset)
        ids, row_offset = columns_ids, 0
    elif gathered_gradient != "true":
        raise ValueError(
            f"gathered_gradient is {gathered_gradient!r}; give 'true' or 'local_slice'"
        )
    video_to_text = frame_similarity(video, columns_text, temperature=temperature)
    text_to_video = frame_similarity(columns_video, text, temperature=temperature).T
    if ids is None or columns_ids is None:
        targets = _own_column(len(video), len(columns_text), row_offset, text.device)
    else:
        targets = contrastive_targets(ids, columns_ids)
    targets = targets.to(video_to_text.dtype)
    return (F.cross_entropy(video_to_text, targets) + F.cross_entropy(text_to_video, targets)) / 2


def sigmoid_loss(
    video: Tensor,
    text: Tensor,
    *,
    temperature: Tensor | float,
    bias: Tensor | float,
    ids: Tensor | None = None,
    all_text: Tensor | None = None,
    all_ids: Tensor | None = None,
    row_offset: int = 0,
) -> Tensor:
    """Every pair judged on its own, match or not; summed over texts, averaged over videos.

    Shapes as in `contrastive_loss`. `bias` is added to similarity over temperature: well below 0
    at first, for most pairs do not match. With several processes only texts are gathered, since
    local videos meet all of them; the mean over processes is the loss of the whole batch. Samples
    of equal ids match. Source: Zhai et al., 2023 (SigLIP).
    """
    if all_text is None and (row_offset or all_ids is not None):
        raise ValueError("row_offset and all_ids belong to all_text; give it too, or none of them")
    if all_text is not None and (all_ids is None) != (ids is None):
        raise ValueError("give all_ids exactly if ids")
    columns_text = text if all_text is None else all_text
    logits = frame_similarity(video, columns_text, temperature=temperature) + bias
    if ids is None:
        matches = _own_column(len(video), len(columns_text), row_offset, text.device) > 0
    else:
        matches = ids[:, None] == (ids if all_ids is None else all_ids)[None, :]
    return -F.logsigmoid(torch.where(matches, logits, -logits)).sum(1).mean()


def contrastive_targets(ids: Tensor, columns_ids: Tensor) -> Tensor:
    """int64 [B] and [G] -> float32 [B, G]: each row shared evenly by the columns of its id."""
    positive = (ids[:, None] == columns_ids[None, :]).float()
    return positive / positive.sum(1, keepdim=True)


def _own_column(rows: int, columns: int, offset: int, device: torch.device) -> Tensor:
    """float32 [B, G]: 1 where a row meets itself."""
    own = torch.arange(offset, offset + rows, device=device)
    return F.one_hot(own, columns).float()


def clamp_temperature_(
    temperature: Tensor, *, minimum: float = 0.001, maximum: float = 0.5
) -> None:
    """Keep a learned temperature in range, in place; call it before every forward pass."""
    with torch.no_grad():
        temperature.clamp_(minimum, maximum)


def _columns(
    video: Tensor,
    text: Tensor,
    ids: Tensor | None,
    all_video: Tensor | None,
    all_text: Tensor | None,
    all_ids: Tensor | None,
    row_offset: int,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """What the local rows are compared with: everything gathered, or the local batch itself."""
    if len(video) != len(text) or (ids is not None and len(ids) != len(video)):
        raise ValueError(
            f"{len(video)} videos, {len(text)} texts and "
            f"{'no' if ids is None else len(ids)} ids; give as many of each, row by row"
        )
    if all_video is None and all_text is None and all_ids is None:
        if row_offset:
            raise ValueError(f"row_offset is {row_offset}; without all_video and all_text give 0")
        return video, text, ids
    if all_video is None or all_text is None or (all_ids is None) != (ids is None):
        raise ValueError("give all_video and all_text together, and all_ids exactly if ids")
    total = len(all_video)
    if len(all_text) != total or (all_ids is not None and len(all_ids) != total):
        raise ValueError("all_video, all_text and all_ids differ in length; gather all of them")
    if not 0 <= row_offset <= total - len(video):
        raise ValueError(
            f"row_offset is {row_offset} for {len(video)} local of {total} gathered samples; "
            f"give 0 to {total - len(video)}"
        )
    return all_video, all_text, all_ids


def _only_local_gradient(local: Tensor, gathered: Tensor, row_offset: int) -> Tensor:
    """`gathered` cut off from its history, except for the rows that are `local`."""
    fixed = gathered.detach()
    return torch.cat([fixed[:row_offset], local, fixed[row_offset + len(local) :]])
