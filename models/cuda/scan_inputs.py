"""What the GPU's scans read and write.

Axes: G groups, B clips, L sequence length, D channels, S states; P is S padded to a multiple of 4.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class ScanInputs:
    """What a scan reads. The last axis of each tensor lies in one piece, the others anyhow."""

    u: Tensor
    """[G, B, L, D] in float32, bfloat16 or float16, as are delta, B and C."""
    delta: Tensor
    B: Tensor
    """[G, B, L, S]"""
    C: Tensor
    A: Tensor
    """[G, D, S] in float32, in one piece, as are D and bias."""
    D: Tensor | None
    """[G, D]"""
    bias: Tensor | None
    """[G, D], added to delta"""
    softplus: bool
    """Whether delta passes softplus."""
    reversed_groups: int = 0
    """Bit g: group g runs against the sequence."""

    @property
    def sizes(self) -> tuple[int, int, int, int, int]:
        """G, B, L, D, S"""
        groups, clips, length, channels = self.u.shape
        return groups, clips, length, channels, self.A.shape[-1]

    def multiprocessors(self) -> int:
        """Of the device; an H100's where the kernels are emulated."""
        return multiprocessors_of(self.u.device)


@cache
def multiprocessors_of(device: torch.device) -> int:
    """How many the device has."""
    if device.type != "cuda":
        return 132
    return torch.cuda.get_device_properties(device).multi_processor_count


@dataclass(frozen=True, kw_only=True)
class ForwardOutputs:
    """Where a forward scan writes; None where nothing is wanted."""

    y: Tensor | None = None
    """[groups scanned, B, L, D]"""
    last: Tensor | None = None
    """[G, B, D, S] float32"""
    checkpoints: Tensor | None = None
    """[G, B, tiles, D, P] float32, of `new_checkpoints`"""


@dataclass(frozen=True, kw_only=True)
class ScanGradients:
    """What a backward scan gives, in float32 but for u and delta."""

    u: Tensor
    """[G, B, L, D], as delta"""
    delta: Tensor
    BC: Tensor
    """[G, B, L, 2, P]: of B, then of C"""
    A: Tensor
    """[G, D, S]"""
    D: Tensor
    """[G, D]"""
    bias: Tensor
    """[G, D]"""
    start: Tensor | None
    """[G, B, D, S]"""
