"""What a mixer does to its directions before and after the scans.

Axes: G directions (the second, if any, runs against the sequence), B clips, L sequence length,
D channels, K taps.
"""

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.causal_conv import causal_conv_silu
from reelscan.models.scan_backend import default_backend, wanted_backend


def convolve_directions(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Each direction's causal convolution and SiLU, in the order in which the direction runs.

    x [B, L, D], weight [G, D, K], bias [G, D] -> [G, B, L, D] in x's dtype.
    """
    if _can_fuse(x, weight, bias):
        from reelscan.models.directions_fused import fused_convolve

        return fused_convolve(x, weight, bias)
    directions = torch.stack([x, x.flip(1)]) if len(weight) == 2 else x.unsqueeze(0)
    if wanted_backend() == "mamba_ssm":
        # Only here, for it is optional.
        from reelscan.models.scan_mamba_ssm import published_causal_conv_silu

        return published_causal_conv_silu(directions, weight, bias)
    return causal_conv_silu(directions, weight, bias)


def merge_directions(y: Tensor, z: Tensor) -> Tensor:
    """The directions brought into one order, summed, and gated by silu(z).

    y [G, B, L, D], each in the order in which its direction runs, z [B, L, D] -> [B, L, D].
    """
    if _can_fuse(y, z):
        from reelscan.models.directions_fused import fused_merge

        return fused_merge(y, z)
    # The gate follows the sequence, so it may wait until the directions are summed.
    total = y[0] + y[1].flip(1) if len(y) == 2 else y[0]
    return total * functional.silu(z)


def _can_fuse(first: Tensor, *others: Tensor) -> bool:
    if any(tensor.dtype != first.dtype for tensor in others) or first.shape[-1] % 16:
        return False
    return default_backend(first.device, first.dtype)[0] == "fused"
