"""Convolution before and gating after the scans of a mixer, compiled, on a CPU in float32.

Each is one pass over memory where PyTorch's operators take a dozen, and needs no flipped copies.

Axes: G directions (the second against the sequence), B clips, L sequence length, D channels (a
multiple of sixteen), K taps.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from reelscan.models import direction_kernels
from reelscan.models.direction_kernels import Shape
from reelscan.models.kernel_threads import run_tasks

PARTS = 16
"""Into which the clips are cut for sums over them."""


def fused_convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, L, D], weight [G, D, K], bias [G, D] -> [G, B, L, D], each as its direction runs."""
    y: Tensor = _Convolve.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return y


def fused_merge(y: Tensor, z: Tensor) -> Tensor:
    """y [G, B, L, D], each as its direction runs, z [B, L, D] -> [B, L, D]"""
    merged: Tensor = _Merge.apply(y, z)  # type: ignore[no-untyped-call]
    return merged


def _flat(tensor: Tensor) -> Any:
    return tensor.detach().contiguous().view(-1).numpy()


def _rows(tensor: Tensor) -> tuple[Any, int]:
    """[B, L, D] flat and its step between positions; not copied if it is cut from wider rows."""
    clips, length, channels = tensor.shape
    stride = tensor.stride(1)
    if tensor.stride() != (length * stride, stride, 1) or stride < channels:
        return _flat(tensor), channels
    span = (clips * length - 1) * stride + channels
    return tensor.detach().as_strided((span,), (1,)).numpy(), stride


def _shape(directions: int, shared: Tensor, *, stride: int, taps: int = 0) -> Shape:
    clips, length, channels = shared.shape
    return Shape(
        directions=directions,
        clips=clips,
        length=length,
        channels=channels,
        taps=taps,
        stride=stride,
        clips_of_part=math.ceil(clips / PARTS),
    )


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, bias)
        rows, stride = _rows(x)
        shape = _shape(len(weight), x, stride=stride, taps=weight.shape[-1])
        y = torch.empty(len(weight), *x.shape, dtype=x.dtype)
        arrays = (rows, _flat(weight.flip(2).transpose(1, 2)), _flat(bias), _flat(y))
        run_tasks(
            lambda first, stop: direction_kernels.convolve(*arrays, shape, first, stop),
            shape.directions * shape.clips,
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, weight, bias = ctx.saved_tensors
        rows, stride = _rows(x)
        shape = _shape(len(weight), x, stride=stride, taps=weight.shape[-1])
        parts = math.ceil(shape.clips / shape.clips_of_part)
        taps = weight.flip(2).transpose(1, 2)
        grad_x = torch.empty(x.shape, dtype=x.dtype)
        grad_taps = torch.empty(parts, *taps.shape, dtype=x.dtype)
        grad_bias = torch.empty(parts, *bias.shape, dtype=x.dtype)
        read = (rows, _flat(taps), _flat(bias), _flat(grad_y))
        written = (_flat(grad_x), _flat(grad_taps), _flat(grad_bias))
        run_tasks(
            lambda first, stop: direction_kernels.convolve_backward(
                *read, *written, shape, first, stop
            ),
            parts,
        )
        return grad_x, grad_taps.sum(0).transpose(1, 2).flip(2), grad_bias.sum(0)


class _Merge(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, z: Tensor) -> Tensor:
        ctx.save_for_backward(y, z)
        rows, stride = _rows(z)
        shape = _shape(len(y), z, stride=stride)
        merged = torch.empty(z.shape, dtype=z.dtype)
        arrays = (_flat(y), rows, _flat(merged))
        run_tasks(
            lambda first, stop: direction_kernels.merge(*arrays, shape, first, stop), shape.clips
        )
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_merged: Tensor) -> tuple[Tensor, Tensor]:
        y, z = ctx.saved_tensors
        rows, stride = _rows(z)
        shape = _shape(len(y), z, stride=stride)
        grad_y, grad_z = torch.empty(y.shape, dtype=y.dtype), torch.empty(z.shape, dtype=z.dtype)
        arrays = (_flat(y), rows, _flat(grad_merged), _flat(grad_y), _flat(grad_z))
        run_tasks(
            lambda first, stop: direction_kernels.merge_backward(*arrays, shape, first, stop),
            shape.clips,
        )
        return grad_y, grad_z
