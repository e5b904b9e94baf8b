"""The gate of a mixer, backward, on a GPU.

Axes: N rows, D channels.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reelscan.models.cuda.arguments import Value
from reelscan.models.cuda.launcher import ELEMENTS, KernelSource, in_fours, load_kernel

GATE = KernelSource(
    file="gate.cu",
    name="gate_backward",
    arguments="""
    const element* sum; const element* z; const element* grad;
    element* grad_sum; element* grad_z; element* gated;
    long long rows; long long z_row; long long grad_z_row; int channels;
    """,
)


@dataclass(frozen=True, kw_only=True)
class GateGradient:
    """Of sum silu(z)."""

    grad_sum: Tensor
    gated: Tensor | None
    """The product itself, where it was asked for."""


def gate_backward(
    total: Tensor, z: Tensor, grad: Tensor, *, grad_z: Tensor, again: bool = False
) -> GateGradient:
    """The gradient of `total` [..., D], that of z into `grad_z`, and the product `again` if told.

    total and grad lie in one piece; z and grad_z may be columns of something wider.
    """
    channels = total.shape[-1]
    # As rows, for the step between rows of a single position says nothing.
    z, grad_z = z.flatten(0, -2), _as_rows(grad_z)
    grad_sum = torch.empty_like(total)
    gated = torch.empty_like(total) if again else None
    tensors = [tensor for tensor in (total, z, grad, grad_sum, grad_z, gated) if tensor is not None]
    macros = (
        ("ELEMENT", ELEMENTS[total.dtype]),
        ("VECTOR", int(all(in_fours(tensor) for tensor in tensors))),
    )
    rows = total.numel() // channels
    values: dict[str, Value] = {
        "sum": total,
        "z": z,
        "grad": grad,
        "grad_sum": grad_sum,
        "grad_z": grad_z,
        "gated": gated,
        "rows": rows,
        "z_row": z.stride(-2),
        "grad_z_row": grad_z.stride(-2),
        "channels": channels,
    }
    threads = rows * -(-channels // 4)
    load_kernel(GATE, macros, total.device).launch(values, blocks=-(-threads // 256), threads=256)
    return GateGradient(grad_sum=grad_sum, gated=gated)


def _as_rows(tensor: Tensor) -> Tensor:
    rows = tensor.flatten(0, -2)
    assert rows.data_ptr() == tensor.data_ptr(), f"copied, for its strides are {tensor.stride()}"
    return rows
