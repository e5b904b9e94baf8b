"""The published GPU kernels (mamba-ssm, causal-conv1d) behind our signatures, where installed.

They want channels first. The groups of a scan become groups of channels, so all run at once.

Axes: G groups, B clips, L sequence length, D inner channels, S states, K taps.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

REMEDY = "install them beside a CUDA compiler with pip install 'reelscan[gpu]'"


def why_not_available() -> str | None:
    """Why the published kernels cannot run here; None if they can."""
    for module in ("mamba_ssm", "causal_conv1d"):
        try:
            import_module(module)
        except ImportError as error:
            return f"{module} does not import ({error}); {REMEDY}"
    return None if torch.cuda.is_available() else "there is no CUDA device"


def published_scan(tensors: Sequence[Tensor | None], delta_softplus: bool) -> tuple[Tensor, Tensor]:
    """The grouped scan of `selective_scan`, differentiable but through the last state.

    Raises ValueError without the kernels, for tensors elsewhere than on a GPU, for float64 and for
    an initial state: the published scan takes none.
    """
    u, delta, A, B, C, D, z, delta_bias, initial_state = tensors
    assert u is not None and delta is not None and A is not None
    assert B is not None and C is not None
    _check(u)
    if initial_state is not None:
        raise ValueError("the published scan takes no initial_state; use scan 'cuda' or 'chunked'")
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    groups = len(u)
    y, last_state = selective_scan_fn(
        _channels_first(u),
        _channels_first(delta.to(u.dtype)),
        A.float().flatten(0, 1),
        B.to(u.dtype).permute(1, 0, 3, 2).contiguous(),
        C.to(u.dtype).permute(1, 0, 3, 2).contiguous(),
        D=None if D is None else D.float().flatten(),
        z=None if z is None else _channels_first(z.to(u.dtype)),
        delta_bias=None if delta_bias is None else delta_bias.float().flatten(),
        delta_softplus=delta_softplus,
        return_last_state=True,
    )
    state: Tensor = _Undifferentiable.apply(last_state)  # type: ignore[no-untyped-call]
    return _channels_last(y, groups), _apart(state, groups).transpose(0, 1)


def published_causal_conv_silu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`causal_conv_silu` by the published kernel; raises ValueError as `published_scan` does."""
    _check(x)
    from causal_conv1d import causal_conv1d_fn

    y = causal_conv1d_fn(
        _channels_first(x),
        weight.to(x.dtype).flatten(0, 1),
        bias.to(x.dtype).flatten(),
        activation="silu",
    )
    return _channels_last(y, len(x))


def _channels_first(tensor: Tensor) -> Tensor:
    """[G, B, L, D] -> [B, G D, L]"""
    return tensor.permute(1, 0, 3, 2).flatten(1, 2).contiguous()


def _channels_last(tensor: Tensor, groups: int) -> Tensor:
    """[B, G D, L] -> [G, B, L, D]"""
    return _apart(tensor, groups).permute(1, 0, 3, 2).contiguous()


def _apart(tensor: Tensor, groups: int) -> Tensor:
    """[B, G D, X] -> [B, G, D, X]"""
    clips, channels, rest = tensor.shape
    return tensor.view(clips, groups, channels // groups, rest)


def _check(tensor: Tensor) -> None:
    if tensor.device.type != "cuda" or tensor.dtype == torch.float64:
        raise ValueError(
            f"the published kernels take float32, bfloat16 or float16 on a CUDA device; this is "
            f"{tensor.dtype} on {tensor.device}: choose another scan than 'mamba_ssm'"
        )
    obstacle = why_not_available()
    if obstacle:
        raise ValueError(f"the published kernels cannot run: {obstacle}")


class _Undifferentiable(torch.autograd.Function):
    """Refuses the gradient that the published backward pass would drop without a word."""

    @staticmethod
    def forward(ctx: Any, state: Tensor) -> Tensor:
        return state.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        raise ValueError("the published scan has no gradient of its last state; use another scan")
