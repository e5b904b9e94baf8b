"""One vector a clip, or one a frame, from the tokens.

Axes: B clips, T frames (tokens along time), N visible patch tokens, C model width.
"""

import torch
from torch import Tensor

from reelscan.models.videomamba_config import Pooling


def pool_tokens(
    cls: Tensor, patches: Tensor, *, pooling: Pooling, frames: int, keep_temporal: bool
) -> Tensor:
    """Pool a clip: [B, 1, C], or [B, T, C] with `keep_temporal` (the patches of each frame apart).

    cls [B, C]; patches [B, N, C] frame by frame, as many in each of the `frames`. The class token
    is added to every frame. "cls" is always [B, 1, C]. "cls_cat_avg" is [B, 2, C], class token then
    mean; with `keep_temporal` it equals "cls+avg", as published.
    """
    cls = cls.unsqueeze(1)
    if pooling == "cls":
        return cls
    groups = frames if keep_temporal else 1
    if patches.shape[1] % groups:
        raise ValueError(
            f"{patches.shape[1]} visible tokens do not divide into {frames} frames; "
            "give a mask that hides as many in each frame, or keep_temporal=False"
        )
    batch, _, width = patches.shape
    mean = patches.reshape(batch, groups, -1, width).mean(dim=2)
    if pooling == "avg":
        return mean
    if pooling == "cls_cat_avg" and not keep_temporal:
        return torch.cat([cls, mean], dim=1)
    return cls + mean
