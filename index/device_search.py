"""Exact search on a GPU: a matrix product and a top-k for each block of vectors that lie there.

For many queries at once, and as the reference for approximate search. Needs PyTorch and NumPy
only, and runs on the CPU as well. N vectors, E embedding width, Q queries, K hits wanted.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ROWS_AT_ONCE = 1 << 18
_QUERIES_AT_ONCE = 1024
_EXTRA = 32
"""Candidates beyond K whose scores are computed again, where blocks are compared in 16 bits."""


@dataclass(frozen=True, kw_only=True)
class DeviceVectors:
    """Vectors on a device with their ids."""

    vectors: Tensor
    """[N, E] float32 or float16."""
    segment_ids: Tensor
    """[N] int64 on the same device."""


def place_on_device(
    blocks: Iterable[tuple[NDArray[np.float32], NDArray[np.int64]]],
    *,
    count: int,
    embed_dim: int,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
) -> DeviceVectors:
    """Copy `count` vectors, which come in blocks with their ids, into one tensor on the device.

    float16 takes half the room and is what a collection of that vector type holds exactly.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ValueError(f"dtype is {dtype}; vectors are kept as float32 or float16")
    vectors = torch.empty(count, embed_dim, dtype=dtype, device=device)
    segment_ids = torch.empty(count, dtype=torch.int64, device=device)
    done = 0
    for block, ids in blocks:
        end = done + len(ids)
        if end > count:
            raise ValueError(f"more than {count} vectors came; give their number as count")
        vectors[done:end] = torch.from_numpy(block).to(device)
        segment_ids[done:end] = torch.from_numpy(ids).to(device)
        done = end
    return DeviceVectors(vectors=vectors[:done], segment_ids=segment_ids[:done])


@torch.inference_mode()
def search_on_device(
    stored: DeviceVectors,
    queries: NDArray[np.float32],
    *,
    top: int,
    allowed: Tensor | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Scores and ids, both [Q, min(K, N)], of the highest inner products, best first.

    `allowed` (bool [N], on the device) limits what is looked for; where fewer than K pass, the rest
    has the id -1. Scores are computed in float32; with float16 vectors that is exact for them.
    """
    device = stored.vectors.device
    top = min(top, len(stored.segment_ids))
    scores = np.empty((len(queries), top), np.float32)
    ids = np.empty((len(queries), top), np.int64)
    for start in range(0, len(queries), _QUERIES_AT_ONCE):
        some = torch.from_numpy(queries[start : start + _QUERIES_AT_ONCE]).to(device)
        best, rows = _best_rows(stored.vectors, some, top, allowed)
        found = stored.segment_ids[rows]
        found[best == -torch.inf] = -1
        scores[start : start + len(some)] = best.cpu().numpy()
        ids[start : start + len(some)] = found.cpu().numpy()
    return scores, ids


def _best_rows(
    vectors: Tensor, queries: Tensor, top: int, allowed: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scores [Q, K] in float32 and rows [Q, K], best first."""
    halves = vectors.dtype == torch.float16
    wanted = min(top + _EXTRA, len(vectors)) if halves else top
    compared = queries.to(vectors.dtype)
    best = torch.empty(len(queries), 0, dtype=vectors.dtype, device=vectors.device)
    rows = torch.empty(len(queries), 0, dtype=torch.int64, device=vectors.device)
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        scores = compared @ vectors[start : start + _ROWS_AT_ONCE].T
        if allowed is not None:
            barred = ~allowed[start : start + _ROWS_AT_ONCE]
            scores.masked_fill_(barred, -torch.inf)
        some, places = scores.topk(min(wanted, scores.shape[1]), dim=1)
        best = torch.cat([best, some], dim=1)
        rows = torch.cat([rows, places + start], dim=1)
        best, order = best.topk(min(wanted, best.shape[1]), dim=1)
        rows = rows.gather(1, order)
    if not halves:
        return best, rows
    # Sixteen bits tell scores apart to about 0.0005: enough for candidates, not for their order.
    exact = torch.einsum("qe,qke->qk", queries, vectors[rows].float())
    exact.masked_fill_(best == -torch.inf, -torch.inf)
    best, order = exact.topk(top, dim=1)
    return best, rows.gather(1, order)
