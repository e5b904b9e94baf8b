"""Position tables: fixed sin-cos ones, and learned ones carried over to another grid.

Axes: B clips, T frames (tokens along time), H x W tokens of a frame, N positions, C model width.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

SHORT_AXIS_BASE = 100.0
"""For axes of a few positions, where the usual 10000 would leave most columns constant."""


def sincos_table(positions: int, width: int, *, base: float = 10000.0) -> Tensor:
    """Fixed sin-cos table float32 [positions, width] (Vaswani et al., 2017).

    Column j holds sin (j even) or cos (j odd) of position / base^(2 (j // 2) / width).
    """
    pairs = torch.arange(width, dtype=torch.float64) // 2
    rates = base ** (-2.0 * pairs / width)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] * rates
    angles[:, 0::2] = angles[:, 0::2].sin()
    angles[:, 1::2] = angles[:, 1::2].cos()
    return angles.float()


def sincos_grid(rows: int, columns: int, width: int) -> Tensor:
    """float32 [rows * columns, width]: half of the width tells the row, half the column."""
    down, across = (
        sincos_table(count, width // 2, base=SHORT_AXIS_BASE) for count in (rows, columns)
    )
    down = down[:, None].expand(rows, columns, -1)
    return torch.cat([down, across.expand(rows, columns, -1)], dim=-1).flatten(0, 1)


def interpolate_spatial(pos_embed: Tensor, *, side: int) -> Tensor:
    """Carry a learned table [1, 1 + H*H, C] over to frames of side x side tokens.

    Returns [1, 1 + side*side, C]. Bicubic; the first row (class token) is kept. Raises ValueError
    if the old grid is not square.
    """
    cls, patches = pos_embed[:, :1], pos_embed[:, 1:]
    old_side = math.isqrt(patches.shape[1])
    if old_side * old_side != patches.shape[1]:
        raise ValueError(f"{patches.shape[1]} positions are no square grid; it must be square")
    if old_side == side:
        return pos_embed
    image = patches.reshape(1, old_side, old_side, -1).permute(0, 3, 1, 2)
    image = functional.interpolate(
        image.float(), size=(side, side), mode="bicubic", align_corners=False
    )
    resized = image.permute(0, 2, 3, 1).flatten(1, 2).to(pos_embed.dtype)
    return torch.cat([cls, resized], dim=1)


def interpolate_temporal(temporal_pos_embedding: Tensor, *, frames: int) -> Tensor:
    """Carry a learned table [1, T, C] over to another number of frames: [1, frames, C]. Linear."""
    if temporal_pos_embedding.shape[1] == frames:
        return temporal_pos_embedding
    line = temporal_pos_embedding.float().transpose(1, 2)
    line = functional.interpolate(line, size=frames, mode="linear", align_corners=False)
    return line.transpose(1, 2).to(temporal_pos_embedding.dtype)


def inflate_patch_weight(
    weight: Tensor, *, tubelet_size: int, how: Literal["centre", "mean"] = "centre"
) -> Tensor:
    """From the weight of an image's patch embedding to that of a clip's.

    weight [C, 3, p, p] -> [C, 3, tubelet_size, p, p]. "centre" puts it at frame tubelet_size // 2
    with zeros elsewhere, as published; "mean" spreads it evenly.
    """
    if how == "mean":
        return weight.unsqueeze(2).repeat(1, 1, tubelet_size, 1, 1) / tubelet_size
    inflated = weight.new_zeros(*weight.shape[:2], tubelet_size, *weight.shape[2:])
    inflated[:, :, tubelet_size // 2] = weight
    return inflated
