"""Which tokens of a clip are hidden while pretraining. True = hidden; every count is truncated.

Axes: B clips, T x H x W tokens of a clip (along time, rows, columns).
"""

import torch
from torch import Tensor

Grid = tuple[int, int, int]
"""Tokens of a clip along time, rows and columns."""


def random_mask(
    clips: int, grid: Grid, *, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Hide int(ratio * T * H * W) tokens of each clip, anywhere: bool [B, T, H, W]."""
    frames, rows, columns = grid
    tokens = frames * rows * columns
    return _hide((clips, tokens), ratio=ratio, generator=generator).view(clips, *grid)


def tube_mask(
    clips: int, grid: Grid, *, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Hide the same int(ratio * H * W) positions in every frame of a clip: bool [B, T, H, W]."""
    frames, rows, columns = grid
    hidden = _hide((clips, rows * columns), ratio=ratio, generator=generator)
    return hidden.view(clips, 1, rows, columns).repeat(1, frames, 1, 1)


def clip_row_mask(
    clips: int, grid: Grid, *, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Hide T * int(ratio * H) whole rows, drawn over all rows of a clip: bool [B, T, H, W]."""
    frames, rows, columns = grid
    count = frames * _hidden_count(rows, ratio)
    hidden = _hide_count((clips, frames * rows), count, generator)
    return hidden.view(clips, frames, rows, 1).repeat(1, 1, 1, columns)


def frame_row_mask(
    clips: int, grid: Grid, *, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Hide int(ratio * H) whole rows in each frame, drawn for each apart: bool [B, T, H, W]."""
    frames, rows, columns = grid
    hidden = _hide((clips, frames, rows), ratio=ratio, generator=generator)
    return hidden.unsqueeze(-1).repeat(1, 1, 1, columns)


def attention_mask(
    attention: Tensor, grid: Grid, *, ratio: float, generator: torch.Generator | None = None
) -> Tensor:
    """Keep what a teacher looks at: bool [B, T, H, W].

    attention [B * T, H * W] (not negative; it need not sum to 1) is drawn from without replacement,
    frame by frame; all but int(ratio * H * W) positions stay visible, those drawn first.
    """
    frames, rows, columns = grid
    if attention.dim() != 2 or attention.shape[1] != rows * columns or len(attention) % frames:
        raise ValueError(
            f"attention is {tuple(attention.shape)}; a grid of {grid} needs "
            f"[clips * {frames}, {rows * columns}]"
        )
    # A weight of zero would make the draw fail where too few others are left.
    weights = attention.float().clamp_min(torch.finfo(torch.float32).tiny)
    draws = torch.multinomial(weights, rows * columns, generator=generator)
    return hide_undrawn(draws, ratio=ratio).view(-1, *grid)


def hide_undrawn(draws: Tensor, *, ratio: float) -> Tensor:
    """Hide the int(ratio * N) positions drawn last.

    draws int64 [rows, N], each row a permutation of its positions -> bool [rows, N].
    """
    visible = draws.shape[1] - _hidden_count(draws.shape[1], ratio)
    hidden = torch.ones_like(draws, dtype=torch.bool)
    return hidden.scatter(1, draws[:, :visible], False)


def with_class_token(mask: Tensor) -> Tensor:
    """What an encoder takes: bool [B, T, H, W] -> bool [B, 1 + T*H*W], class token visible."""
    flat = mask.flatten(1)
    return torch.cat([flat.new_zeros(len(flat), 1), flat], dim=1)


def _hide(shape: tuple[int, ...], *, ratio: float, generator: torch.Generator | None) -> Tensor:
    return _hide_count(shape, _hidden_count(shape[-1], ratio), generator)


def _hide_count(shape: tuple[int, ...], count: int, generator: torch.Generator | None) -> Tensor:
    order = torch.rand(shape, generator=generator).argsort(dim=-1)
    return order < count


def _hidden_count(positions: int, ratio: float) -> int:
    if not 0.0 <= ratio < 1.0:
        raise ValueError(f"the mask ratio is {ratio}; it must lie in [0, 1)")
    return int(ratio * positions)
