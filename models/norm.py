"""Normalisations of the residual stream: in float32 or wider, handed on in the weight's dtype."""

import torch
from torch import Tensor, nn
from torch.nn import functional


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
        scale = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return (wide * scale * self.weight).to(self.weight.dtype)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation for a stream that may be wider than the weight."""

    def forward(self, stream: Tensor) -> Tensor:
        """stream [..., C] -> [..., C] in the weight's dtype."""
        wide = at_least_float32(stream)
        weight, bias = self.weight.to(wide.dtype), self.bias.to(wide.dtype)
        normalised = functional.layer_norm(wide, self.normalized_shape, weight, bias, self.eps)
        return normalised.to(self.weight.dtype)
