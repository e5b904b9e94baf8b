"""The causal convolution and SiLU of one or two directions on a GPU.

Axes: G directions (the second looks ahead), B clips, L sequence length, D channels, K taps.
"""

import torch
from torch import Tensor

from reelscan.models.cuda.arguments import Value
from reelscan.models.cuda.launcher import ELEMENTS, KernelSource, Macros, in_fours, load_kernel

_ARGUMENTS = """
    const element* x; const float* weight; const float* bias; element* y; const element* grad_y;
    const element* more_grad_y;
    element* grad_x; float* grad_weight; long long x_clip; long long x_row;
    long long grad_x_clip; long long grad_x_row; int clips; int length; int channels;
"""
FORWARD = KernelSource(file="convolve.cu", name="convolve", arguments=_ARGUMENTS)
BACKWARD = KernelSource(file="convolve.cu", name="convolve_backward", arguments=_ARGUMENTS)
FORWARD_ROWS, BACKWARD_ROWS = 16, 64
"""Positions that a thread slides over."""


def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [B, L, D], weight [G, D, K], bias [G, D] -> [G, B, L, D], all in the order of the sequence.

    x may be columns of something wider.
    """
    y = torch.empty(len(weight), *x.shape, dtype=x.dtype, device=x.device)
    values = _values(x, weight, bias) | {"y": y}
    _launch(FORWARD, x, weight, values, rows=FORWARD_ROWS, width=4, others=[y])
    return y


def convolve_backward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    grad_y: Tensor,
    *,
    more_grad_y: Tensor,
    grad_x: Tensor,
) -> tuple[Tensor, Tensor]:
    """The gradients of weight and bias, that of x into `grad_x`.

    That of y is grad_y + more_grad_y, each [G, B, L, D] in one piece.
    """
    directions, channels, taps = weight.shape
    parts = x.shape[0] * -(-x.shape[1] // BACKWARD_ROWS)
    grad_weight = torch.empty(directions, parts, taps + 1, channels, device=x.device)
    values = _values(x, weight, bias) | {
        "grad_y": grad_y,
        "more_grad_y": more_grad_y,
        "grad_x": grad_x,
        "grad_weight": grad_weight,
        "grad_x_clip": grad_x.stride(0),
        "grad_x_row": grad_x.stride(1),
    }
    others = [grad_y, more_grad_y, grad_x]
    _launch(BACKWARD, x, weight, values, rows=BACKWARD_ROWS, width=2, others=others)
    sums = grad_weight.sum(1)
    return sums[:, :-1].transpose(1, 2), sums[:, -1]


def _values(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Value]:
    clips, length, channels = x.shape
    return {
        "x": x,
        "weight": weight,
        "bias": bias,
        "y": None,
        "grad_y": None,
        "more_grad_y": None,
        "grad_x": None,
        "grad_weight": None,
        "x_clip": x.stride(0),
        "x_row": x.stride(1),
        "grad_x_clip": 0,
        "grad_x_row": 0,
        "clips": clips,
        "length": length,
        "channels": channels,
    }


def _launch(
    source: KernelSource,
    x: Tensor,
    weight: Tensor,
    values: dict[str, Value],
    *,
    rows: int,
    width: int,
    others: list[Tensor],
) -> None:
    macros: Macros = (
        ("ELEMENT", ELEMENTS[x.dtype]),
        ("VECTOR", int(all(in_fours(tensor) for tensor in (x, *others)))),
        ("TAPS", weight.shape[2]),
        ("DIRECTIONS", weight.shape[0]),
        ("ROWS", rows),
    )
    clips, length, channels = x.shape
    threads = clips * -(-length // rows) * -(-channels // width)
    load_kernel(source, macros, x.device).launch(values, blocks=-(-threads // 128), threads=128)
