"""Causal depthwise convolution and SiLU in one, channel-last.

torch's grouped convolution wants the channels first, and the same sum in torch's operators is bound
by memory: each of its many passes touches a fresh full-size tensor. Here a few clips at a time stay
in a processor's cache, and the backward pass recomputes instead of storing.

Axes: G independent groups, B clips, L sequence length, D channels, K taps.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

CPU_BLOCK_ELEMENTS = 200_000
"""Elements of x worked on at a time on a CPU: 0.8 MB in float32."""


def causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """silu(bias + sum_k weight_k x_{t - (K - 1) + k}), with zeros before the sequence.

    x [G, B, L, D], weight [G, D, K], bias [G, D] -> [G, B, L, D], all in x's dtype.
    """
    y: Tensor = _CausalConvSilu.apply(x, weight.to(x.dtype), bias.to(x.dtype))  # type: ignore[no-untyped-call]
    return y


def _blocks(x: Tensor) -> Iterator[slice]:
    """A few clips at a time; all of them where there is no CPU cache to mind."""
    clips = x.shape[1]
    size = max(1, CPU_BLOCK_ELEMENTS * clips // x.numel()) if x.device.type == "cpu" else clips
    return (slice(i, min(i + size, clips)) for i in range(0, clips, size))


def _taps(weight: Tensor, length: int) -> list[tuple[int, Tensor]]:
    """How far each tap looks back and its weight [G, 1, 1, D], the present first."""
    rows = weight[:, None, None].unbind(-1)
    return [(back, row.contiguous()) for back, row in enumerate(reversed(rows)) if back < length]


def _convolve(x: Tensor, taps: list[tuple[int, Tensor]], bias: Tensor, *, out: Tensor) -> Tensor:
    for back, row in taps:
        if back == 0:
            torch.addcmul(bias[:, None, None], x, row, out=out)
        else:
            out[:, :, back:].addcmul_(x[:, :, :-back], row)
    return out


class _CausalConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        taps = _taps(weight, x.shape[2])
        for clips in _blocks(x):
            functional.silu(_convolve(x[:, clips], taps, bias, out=y[:, clips]), inplace=True)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        taps = _taps(weight, x.shape[2])
        wide = torch.promote_types(x.dtype, torch.float32)
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_weight, grad_bias = (torch.zeros_like(t, dtype=wide) for t in (weight, bias))
        for clips in _blocks(x):
            block, grad_block = x[:, clips], grad_x[:, clips]
            before = torch.empty_like(block, memory_format=torch.contiguous_format)
            grad = _silu_backward(grad_y[:, clips], _convolve(block, taps, bias, out=before))
            grad_bias += grad.flatten(1, 2).sum(1, dtype=wide)
            for back, row in taps:
                end = x.shape[2] - back
                product = grad[:, :, back:] * block[:, :, :end]
                grad_weight[:, :, -1 - back] += product.flatten(1, 2).sum(1, dtype=wide)
                if back == 0:
                    torch.mul(grad, row, out=grad_block)
                else:
                    grad_block[:, :, :end].addcmul_(grad[:, :, back:], row)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype)


def _silu_backward(grad_y: Tensor, before: Tensor) -> Tensor:
    """The gradient of what went into the SiLU (`before`), written over it."""
    gate = torch.sigmoid(before)
    return before.mul_(1 - gate).add_(1).mul_(gate).mul_(grad_y)
