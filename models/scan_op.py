"""The selective scan and its gradients as operators of PyTorch, whatever computes them.

Being operators, they pass through torch.compile, torch.export, autocast and torch.func whole. Only
inputs are kept between the two; the backward pass recomputes.

Axes: G groups, B clips, L sequence length, D inner channels, S states; V a mapped axis of vmap.
"""

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.scan_backend import default_backend
from reelscan.models.scan_reference import reference_scan

_Pair = tuple[Tensor, Tensor]
_Gradients = tuple[Tensor | None, ...]
NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
"""The tensors, in the order of the gradients."""


@torch.library.custom_op("reelscan::selective_scan", mutates_args=())
def scan_op(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    """y [G, B, L, D] in u's dtype and the last state [G, B, D, S] in float32 or wider.

    The tensors of `selective_scan` with their leading G. Without `backend`, `default_backend`
    chooses when the operator runs, not when it is traced.
    """
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    wide = _computed_in(tensors)
    chosen = backend or default_backend(u.device, wide)[0]
    with torch.autocast(u.device.type, enabled=False):
        if chosen == "cuda":
            from reelscan.models import scan_cuda

            y, last_state = scan_cuda.scan_forward(**_named(tensors), delta_softplus=delta_softplus)
        else:
            forward, _ = _on_plain_tensors(chosen)
            y, last_state = _gated_forward(forward, _widened(tensors, wide), delta_softplus)
    return y.to(u.dtype).contiguous(), last_state.contiguous()


@torch.library.custom_op("reelscan::selective_scan_backward", mutates_args=())
def scan_backward_op(
    grad_y: Tensor | None,
    grad_last_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    backend: str | None,
) -> list[Tensor]:
    """The gradients of those of `NAMES` that are given, in that order and in their dtypes."""
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    wide = _computed_in(tensors)
    chosen = backend or default_backend(u.device, wide)[0]
    with torch.autocast(u.device.type, enabled=False):
        if chosen == "cuda":
            from reelscan.models import scan_cuda

            gradients: Sequence[Tensor | None] = scan_cuda.scan_backward(
                grad_y, grad_last_state, **_named(tensors), delta_softplus=delta_softplus
            )
        else:
            passed_back = [None if t is None else t.to(wide) for t in (grad_y, grad_last_state)]
            gradients = _gated_backward(
                _on_plain_tensors(chosen), passed_back, _widened(tensors, wide), delta_softplus
            )
    made = []
    for tensor, gradient in zip(tensors, gradients, strict=True):
        if tensor is not None:
            assert gradient is not None
            made.append(gradient.to(tensor.dtype).contiguous())
    return made


def _computed_in(tensors: Sequence[Tensor | None]) -> torch.dtype:
    """float32, or float64 where a tensor is."""
    dtypes = (tensor.dtype for tensor in tensors if tensor is not None)
    return reduce(torch.promote_types, dtypes, torch.float32)


def _named(tensors: Sequence[Tensor | None]) -> dict[str, Any]:
    return dict(zip(NAMES, tensors, strict=True))


def _widened(tensors: Sequence[Tensor | None], dtype: torch.dtype) -> dict[str, Any]:
    """What the implementations in plain PyTorch and Numba take: one dtype, and a first state."""
    wide = _named([None if tensor is None else tensor.to(dtype) for tensor in tensors])
    if wide["initial_state"] is None:
        (groups, clips), (channels, states) = wide["u"].shape[:2], wide["A"].shape[1:]
        wide["initial_state"] = wide["u"].new_zeros(groups, clips, channels, states)
    return wide


def _on_plain_tensors(backend: str) -> tuple[Callable[..., _Pair], Callable[..., _Gradients]]:
    """Forward and backward of an implementation that knows no gate."""
    if backend == "fused":
        # Only here, for Numba takes a second to import.
        from reelscan.models.scan_fused import fused_backward, fused_forward

        return fused_forward, fused_backward
    if backend == "chunked":
        from reelscan.models.scan_chunked import chunked_backward, chunked_forward

        return chunked_forward, chunked_backward
    raise ValueError(f"backend is {backend!r}; this operator knows cuda, fused and chunked")


def _gated_forward(
    forward: Callable[..., _Pair], wide: dict[str, Any], delta_softplus: bool
) -> _Pair:
    z = wide.pop("z")
    y, last_state = forward(**wide, delta_softplus=delta_softplus)
    return (y if z is None else y * functional.silu(z)), last_state


def gated_reference(tensors: Sequence[Tensor | None], delta_softplus: bool) -> _Pair:
    """The plain loop, of the tensors of `NAMES`; not an operator, but differentiable at will."""
    u = tensors[0]
    assert u is not None
    with torch.autocast(u.device.type, enabled=False):
        wide = _widened(tensors, _computed_in(tensors))
        y, last_state = _gated_forward(reference_scan, wide, delta_softplus)
    return y.to(u.dtype), last_state


def _gated_backward(
    pair: tuple[Callable[..., _Pair], Callable[..., _Gradients]],
    passed_back: Sequence[Tensor | None],
    wide: dict[str, Any],
    delta_softplus: bool,
) -> _Gradients:
    """The gradients of `NAMES`."""
    forward, backward = pair
    grad_y, grad_last_state = passed_back
    z, grad_z = wide.pop("z"), None
    grad_y = torch.zeros_like(wide["u"]) if grad_y is None else grad_y
    if grad_last_state is None:
        grad_last_state = torch.zeros_like(wide["initial_state"])
    if z is not None:
        y, _ = forward(**wide, delta_softplus=delta_softplus)
        gate = torch.sigmoid(z)
        grad_z = grad_y * y * gate * (1 + z * (1 - gate))
        grad_y = grad_y * z * gate
    gradients = backward(grad_y, grad_last_state, **wide, delta_softplus=delta_softplus)
    return *gradients[:6], grad_z, *gradients[6:]


@scan_op.register_fake
def _(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    backend: str | None,
) -> tuple[Tensor, Tensor]:
    wide = _computed_in((u, delta, A, B, C, D, z, delta_bias, initial_state))
    state = u.new_empty((*u.shape[:2], *A.shape[1:]), dtype=wide)
    return u.new_empty(u.shape), state


@scan_backward_op.register_fake
def _(
    grad_y: Tensor | None,
    grad_last_state: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    delta_softplus: bool,
    backend: str | None,
) -> list[Tensor]:
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    return [tensor.new_empty(tensor.shape) for tensor in tensors if tensor is not None]


def _keep_inputs(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    *tensors, ctx.delta_softplus, ctx.backend = inputs
    ctx.save_for_backward(*tensors)
    ctx.set_materialize_grads(False)


def _passed_back(
    backward: Callable[..., Sequence[Tensor]], ctx: Any, grads: Sequence[Tensor | None]
) -> _Gradients:
    """What autograd wants for the arguments of `scan_op`."""
    tensors = ctx.saved_tensors
    if all(grad is None for grad in grads):
        return (None,) * (len(tensors) + 2)
    made = iter(backward(*grads, *tensors, ctx.delta_softplus, ctx.backend))
    return *(None if tensor is None else next(made) for tensor in tensors), None, None


def _differentiate(ctx: Any, *grads: Tensor | None) -> _Gradients:
    return _passed_back(scan_backward_op, ctx, grads)


scan_op.register_autograd(_differentiate, setup_context=_keep_inputs)


def _refuse(ctx: Any, *grads: Any) -> None:
    raise RuntimeError(
        "the selective scan can be differentiated once; for more use backend='reference'"
    )


scan_backward_op.register_autograd(_refuse)


class _Scan(torch.autograd.Function):
    """`scan_op` once more, for torch.func, which differentiates functions but not operators."""

    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> _Pair:
        y, last_state = scan_op(*inputs)
        return y, last_state

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        _keep_inputs(ctx, inputs, output)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> _Gradients:
        return _passed_back(_ScanBackward.apply, ctx, grads)


class _ScanBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(*inputs: Any) -> tuple[Tensor, ...]:
        return tuple(scan_backward_op(*inputs))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> None:
        _refuse(ctx, *grads)


def differentiable_scan(
    tensors: Sequence[Tensor | None], delta_softplus: bool, backend: str | None
) -> _Pair:
    """`scan_op` of the tensors of `NAMES`, also under torch.func."""
    if torch.compiler.is_compiling():
        # A graph holds the operator itself, and that is differentiable there.
        y, last_state = scan_op(*tensors, delta_softplus, backend)
        return y, last_state
    y, last_state = _Scan.apply(*tensors, delta_softplus, backend)  # type: ignore[no-untyped-call]
    return y, last_state


def _folded(
    count: int, tensors: Sequence[Tensor | None], in_dims: Sequence[int | None]
) -> list[Any]:
    """[.., V, ..] -> [V G, ...]: what is mapped becomes more groups."""
    folded: list[Any] = []
    for tensor, dim in zip(tensors, in_dims, strict=True):
        if tensor is None:
            folded.append(None)
        elif dim is None:
            folded.append(tensor.expand(count, *tensor.shape).flatten(0, 1))
        else:
            folded.append(tensor.movedim(dim, 0).flatten(0, 1))
    return folded


@scan_op.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[_Pair, tuple[int, int]]:
    *tensors, delta_softplus, backend = inputs
    folded = _folded(info.batch_size, tensors, in_dims[:-2])
    y, last_state = scan_op(*folded, delta_softplus, backend)
    mapped = (info.batch_size, -1)
    return (y.unflatten(0, mapped), last_state.unflatten(0, mapped)), (0, 0)


@scan_backward_op.register_vmap
def _(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[list[Tensor], list[int]]:
    *tensors, delta_softplus, backend = inputs
    folded = _folded(info.batch_size, tensors, in_dims[:-2])
    gradients = scan_backward_op(*folded, delta_softplus, backend)
    return [one.unflatten(0, (info.batch_size, -1)) for one in gradients], [0] * len(gradients)
