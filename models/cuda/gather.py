"""The parameters of a mixer's directions in the types and the layout of the kernels, on a GPU.

Axes: G directions, D channels, K taps, S states, R rank of the time steps, Q the rank padded to a
multiple of eight.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reelscan.models.cuda.arguments import Value
from reelscan.models.cuda.launcher import ELEMENTS, KernelSource, load_kernel

NAMES = ("conv_weight", "conv_bias", "x_proj", "dt_weight", "dt_bias", "A_log", "D")
"""A direction's parameters, in the order in which operators take them."""
GATHER = KernelSource(
    file="gather.cu",
    name="gather",
    arguments="".join(
        f"const void* {name}_0; const void* {name}_1; int {name}_type;" for name in NAMES
    )
    + "float* wide; element* narrow; int channels;",
)


@dataclass(frozen=True, kw_only=True)
class GatheredWeights:
    """Of all directions; float32 but for the two projections, which have the elements' type."""

    conv_weight: Tensor
    """[G, D, K]"""
    conv_bias: Tensor
    """[G, D]"""
    dt_bias: Tensor
    """[G, D]"""
    A: Tensor
    """[G, D, S]"""
    D: Tensor
    """[G, D]"""
    x_proj: Tensor
    """[G, Q + 2 S, D]"""
    dt_weight: Tensor
    """[G, D, Q]"""

    @property
    def rank(self) -> int:
        """Q"""
        return self.dt_weight.shape[2]


def gather_weights(weights: list[Tensor], *, dtype: torch.dtype) -> GatheredWeights:
    """From the parameters `NAMES` of one or two directions, direction by direction.

    conv_weight [D, 1, K], conv_bias [D], x_proj [R + 2 S, D], dt_weight [D, R], dt_bias [D],
    A_log [D, S], D [D], each in float32, bfloat16 or float16.
    """
    directions = len(weights) // len(NAMES)
    first = [weight.contiguous() for weight in weights[: len(NAMES)]]
    second = [weight.contiguous() for weight in weights[-len(NAMES) :]]
    channels, taps = first[0].shape[0], first[0].shape[2]
    rank, states = first[3].shape[1], first[5].shape[1]
    padded = -(-rank // 8) * 8
    wide_sizes = [taps, 1, 1, states, 1]
    narrow_sizes = [padded + 2 * states, padded]
    device, count = first[0].device, directions * channels
    wide = torch.empty(count * sum(wide_sizes), dtype=torch.float32, device=device)
    narrow = torch.empty(count * sum(narrow_sizes), dtype=dtype, device=device)
    macros = (
        ("ELEMENT", ELEMENTS[dtype]),
        ("VECTOR", 0),
        ("DIRECTIONS", directions),
        ("TAPS", taps),
        ("STATES", states),
        ("RANK", rank),
        ("PADDED_RANK", padded),
    )
    values: dict[str, Value] = {"wide": wide, "narrow": narrow, "channels": channels}
    for name, one, other in zip(NAMES, first, second, strict=True):
        values[f"{name}_0"], values[f"{name}_1"] = one, other
        values[f"{name}_type"] = ELEMENTS[one.dtype]
    threads = count * max(*wide_sizes, *narrow_sizes)
    load_kernel(GATHER, macros, device).launch(values, blocks=-(-threads // 256), threads=256)
    cut_wide = torch.split(wide, [count * size for size in wide_sizes])
    conv_weight, conv_bias, dt_bias, A, D = (
        part.view(directions, channels, -1) for part in cut_wide
    )
    x_proj, dt_weight = torch.split(narrow, [count * size for size in narrow_sizes])
    return GatheredWeights(
        conv_weight=conv_weight,
        conv_bias=conv_bias.squeeze(-1),
        dt_bias=dt_bias.squeeze(-1),
        A=A,
        D=D.squeeze(-1),
        x_proj=x_proj.view(directions, -1, channels),
        dt_weight=dt_weight.view(directions, channels, padded),
    )
