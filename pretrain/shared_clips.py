"""Memory that workers fill with clips and the training process reads.

Pages that are new to shared memory cost a worker far more than the copying: so each has a few
pieces and fills them in turn, and the training process copies each batch when it gets it.

Axes: B clips, T frames, 3 colours, S x S pixels.
"""

import math

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

BATCHES_AHEAD = 2
"""Batches that each worker is asked for ahead."""
# Those ahead, and the one that the training process is copying.
_PIECES = BATCHES_AHEAD + 1


class SharedClips:
    """The pieces of one worker; outside of workers, new memory each time."""

    def __init__(self) -> None:
        self._pieces: dict[tuple[int, ...], list[Tensor]] = {}

    def next(self, shape: tuple[int, ...]) -> Tensor:
        """uint8 [B, T, 3, S, S] with anything in it."""
        if get_worker_info() is None:
            return torch.empty(shape, dtype=torch.uint8)
        pieces = self._pieces.setdefault(shape, [])
        if len(pieces) < _PIECES:
            storage = torch.UntypedStorage._new_shared(math.prod(shape))  # type: ignore[no-untyped-call]
            pieces.append(torch.empty(0, dtype=torch.uint8).set_(storage).view(shape))
        else:
            pieces.append(pieces.pop(0))
        return pieces[-1]


def copied(clips_uint8: Tensor, *, pinned: bool) -> Tensor:
    """A copy that no worker writes to; `pinned` for a transfer to the GPU."""
    return torch.empty(clips_uint8.shape, dtype=torch.uint8, pin_memory=pinned).copy_(clips_uint8)
