"""In which order the blocks read the tokens of a clip: by space, by time, or in turns.

Streams lie spatial-first everywhere: frame by frame, row by row. Only blocks that read otherwise
see them otherwise. Axes: B clips, T x H x W tokens of a clip, N = T H W, N_vis those not masked.
"""

from typing import Literal

import torch
from torch import Tensor

ScanOrder = Literal["spatial-first", "temporal-first", "hybrid"]
Grid = tuple[int, int, int]
"""Tokens of a clip along time, rows and columns."""


def temporal_first(grid: Grid) -> Tensor:
    """Which token is read at each place, int64 [N]: all times of a place in the frame, then of the
    next, row by row. Tokens are numbered spatial-first."""
    frames, rows, columns = grid
    return torch.arange(frames * rows * columns).view(frames, -1).T.flatten()


def reads_temporal_first(order: ScanOrder, block: int) -> bool:
    """Whether this block does. Hybrid: every other block, from the second on, so that half of them
    read either way at no more cost (Li et al., 2024, "v1")."""
    return order == "temporal-first" or (order == "hybrid" and block % 2 == 1)


def temporal_places(grid: Grid, visible: Tensor | None, *, device: torch.device) -> Tensor:
    """Where the rows of a stream come from that is brought from spatial-first to temporal-first.

    The class token stays first. visible bool [B, N], as many in each row, keeps only those:
    int64 [B, 1 + N_vis], or [1, 1 + N] without.
    """
    order = temporal_first(grid).to(device)
    if visible is None:
        places = order[None]
    else:
        # A visible token lies in the stream behind the visible ones before it.
        ranks = visible.cumsum(dim=1) - 1
        in_order = visible[:, order]
        places = ranks[:, order][in_order].view(len(visible), -1)
    first = places.new_zeros(len(places), 1)
    return torch.cat([first, places + 1], dim=1)


def reorder(stream: Tensor, places: Tensor) -> Tensor:
    """stream [B, L, C], places int64 [B or 1, L] -> its rows from those places."""
    if len(places) == 1:
        return stream[:, places[0]]
    return stream.gather(1, places[..., None].expand(-1, -1, stream.shape[-1]))
