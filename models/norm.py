"""Normalisations of the residual stream: in float32 or wider, handed on in the weight's dtype."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from reelscan.models.scan_backend import uses_gpu_kernels


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32, or as it is when it is wider."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + epsilon) * weight over the last axis (Zhang and Sennrich, 2019)."""

    def __init__(self, width: int, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, stream: Tensor) -> Tensor:
        """stream [..., C] -> [..., C] in the weight's dtype."""
        wide = at_least_float32(stream)
        weight = self.weight.to(wide.dtype)
        return functional.rms_norm(wide, weight.shape, weight, self.epsilon).to(self.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation for a stream that may be wider than the weight."""

    def forward(self, stream: Tensor) -> Tensor:
        """stream [..., C] -> [..., C] in the weight's dtype."""
        wide = at_least_float32(stream)
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        normalised = functional.layer_norm(wide, self.normalized_shape, weight, bias, self.eps)
        return normalised.to(self.weight.dtype)


def add_and_norm(
    stream: Tensor, added: Tensor | None, scale: Tensor | None, norm: RMSNorm | LayerNorm
) -> tuple[Tensor, Tensor]:
    """stream + scale added [B, L, C], and that normalised; with scale [B], by default ones.

    Without `added` the stream is returned as it is. One pass over memory on a GPU.
    """
    if added is None:
        return stream, norm(stream)
    if isinstance(norm, RMSNorm) and _runs_in_one(stream, added):
        # Only here, for it is of use beside a GPU alone.
        from reelscan.models.cuda.add_norm import add_norm

        total, normed, _ = add_norm(stream, added, scale, norm.weight, norm.epsilon)
        return total, normed
    if scale is not None:
        added = added * scale.view(-1, 1, 1).to(added.dtype)
    total = stream + added
    return total, norm(total)


def _runs_in_one(stream: Tensor, added: Tensor) -> bool:
    """Whether our GPU kernel takes these: rows of whole fours that fit into shared memory."""
    if stream.dtype != torch.float32 or stream.dim() != 3:
        return False
    width = stream.shape[-1]
    return width % 4 == 0 and width <= 1536 and uses_gpu_kernels(added)
