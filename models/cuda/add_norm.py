"""stream + scale * added and its RMS normalisation in one pass, on a GPU.

Axes: B clips, L sequence length, C model width.
"""

import torch
from torch import Tensor

from reelscan.models.cuda.arguments import Value
from reelscan.models.cuda.launcher import ELEMENTS, KernelSource, Macros, load_kernel

_ARGUMENTS = """
    const float* stream; const element* added; const float* scale; const float* weight;
    float* sum; element* normed; float* inverse; const element* grad_normed; const float* grad_sum;
    float* grad_stream; element* grad_added; float* grad_weight;
    long long rows; long long rows_of_clip; float epsilon;
"""
FORWARD = KernelSource(file="norm.cu", name="add_norm", arguments=_ARGUMENTS)
BACKWARD = KernelSource(file="norm.cu", name="add_norm_backward", arguments=_ARGUMENTS)
_ROWS_AT_ONCE = 8
_MOST_BLOCKS = 1024
"""Of the backward pass, each of which sums gradients of the weight over many rows."""


@torch.library.custom_op("reelscan::add_norm", mutates_args=())
def add_norm(
    stream: Tensor, added: Tensor, scale: Tensor | None, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum [B, L, C] in float32, its normalisation in added's dtype, and 1 / rms [B, L].

    stream [B, L, C] float32, added [B, L, C], scale [B] float32 or None (of ones), weight [C].
    """
    stream, added = stream.contiguous(), added.contiguous()
    total = torch.empty_like(stream)
    normed = torch.empty_like(added)
    inverse = torch.empty(stream.shape[:-1], dtype=torch.float32, device=stream.device)
    values = _values(stream, scale, weight, epsilon) | {
        "stream": stream,
        "added": added,
        "sum": total,
        "normed": normed,
        "inverse": inverse,
    }
    blocks = -(-inverse.numel() // _ROWS_AT_ONCE)
    load_kernel(FORWARD, _macros(added), stream.device).launch(values, blocks=blocks, threads=256)
    return total, normed, inverse


@torch.library.custom_op("reelscan::add_norm_backward", mutates_args=())
def add_norm_backward(
    grad_total: Tensor | None,
    grad_normed: Tensor,
    total: Tensor,
    inverse: Tensor,
    scale: Tensor | None,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of stream (float32), added (grad_normed's dtype) and weight (float32)."""
    grad_normed = grad_normed.contiguous()
    grad_stream, grad_added = torch.empty_like(total), torch.empty_like(grad_normed)
    blocks = min(_MOST_BLOCKS, -(-inverse.numel() // _ROWS_AT_ONCE))
    grad_weight = torch.empty(blocks, weight.numel(), device=total.device)
    values = _values(total, scale, weight, 0.0) | {
        "sum": total,
        "inverse": inverse,
        "grad_normed": grad_normed,
        "grad_sum": None if grad_total is None else grad_total.contiguous(),
        "grad_stream": grad_stream,
        "grad_added": grad_added,
        "grad_weight": grad_weight,
    }
    kernel = load_kernel(BACKWARD, _macros(grad_normed), total.device)
    kernel.launch(values, blocks=blocks, threads=256)
    return grad_stream, grad_added, grad_weight.sum(0)


@add_norm.register_fake
def _add_norm_shapes(
    stream: Tensor, added: Tensor, scale: Tensor | None, weight: Tensor, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    total = torch.empty_like(stream, memory_format=torch.contiguous_format)
    normed = torch.empty_like(added, memory_format=torch.contiguous_format)
    return total, normed, stream.new_empty(stream.shape[:-1])


@add_norm_backward.register_fake
def _add_norm_backward_shapes(
    grad_total: Tensor | None,
    grad_normed: Tensor,
    total: Tensor,
    inverse: Tensor,
    scale: Tensor | None,
    weight: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    grad_added = torch.empty_like(grad_normed, memory_format=torch.contiguous_format)
    return torch.empty_like(total), grad_added, total.new_empty(weight.shape)


def _keep(ctx: object, inputs: tuple[object, ...], output: tuple[Tensor, Tensor, Tensor]) -> None:
    _, _, scale, weight, _ = inputs
    total, normed, inverse = output
    ctx.element = normed.dtype  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(inverse)  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)  # type: ignore[attr-defined]
    ctx.save_for_backward(total, inverse, scale, weight)  # type: ignore[attr-defined]


def _gradients(
    ctx: object, grad_total: Tensor | None, grad_normed: Tensor | None, _: Tensor | None
) -> tuple[Tensor | None, ...]:
    total, inverse, scale, weight = ctx.saved_tensors  # type: ignore[attr-defined]
    if grad_normed is None:
        grad_normed = torch.zeros_like(total, dtype=ctx.element)  # type: ignore[attr-defined]
    grad_stream, grad_added, grad_weight = add_norm_backward(
        grad_total, grad_normed, total, inverse, scale, weight
    )
    return grad_stream, grad_added, None, grad_weight.to(weight.dtype), None


add_norm.register_autograd(_gradients, setup_context=_keep)


def _macros(element: Tensor) -> Macros:
    return (("ELEMENT", ELEMENTS[element.dtype]), ("VECTOR", 1), ("WIDTH", element.shape[-1]))


def _values(rows: Tensor, scale: Tensor | None, weight: Tensor, epsilon: float) -> dict[str, Value]:
    names = (
        "stream added sum normed inverse grad_normed grad_sum grad_stream grad_added grad_weight"
    )
    return {
        **dict.fromkeys(names.split()),
        "scale": scale,
        "weight": weight.float().contiguous(),
        "rows": rows.numel() // rows.shape[-1],
        "rows_of_clip": rows.shape[-2],
        "epsilon": epsilon,
    }
