"""The selective scan of Mamba, channel-last.

Axes: G groups (optional, leading), B clips, L sequence length, D inner channels, S states.
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from reelscan.models.scan_backend import ScanBackend, default_backend, use_scan, wanted_backend
from reelscan.models.scan_op import NAMES, differentiable_scan, gated_reference

__all__ = ["ScanBackend", "ScanOutput", "default_backend", "selective_scan", "use_scan"]


@dataclass(frozen=True, kw_only=True)
class ScanOutput:
    """What a scan returns; a leading G as in the input."""

    y: Tensor
    """[B, L, D] in the dtype of u."""

    last_state: Tensor
    """[B, D, S] in float32 or wider."""


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    backend: ScanBackend | None = None,
) -> ScanOutput:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t and y_t = (C_t h_t + D u_t) silu(z_t).

    u, delta, z [B, L, D]; A [D, S]; B, C [B, L, S]; D, delta_bias [D]; initial_state [B, D, S],
    zeros by default. `delta_bias` is added to delta, which then passes softplus if told. Computed
    in float32, or in float64 where an input is; by `default_backend` if `backend` names none. All
    tensors may carry a leading axis G: scans that run at once, each with its own A, D and
    delta_bias. Raises ValueError for shapes that do not fit and for a backend that cannot do this.
    Source: Gu and Dao, 2023.
    """
    tensors: tuple[Any, ...] = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    _check_shapes({n: t for n, t in zip(NAMES, tensors, strict=True) if t is not None})
    grouped = u.dim() == 4
    if not grouped:
        tensors = tuple(None if tensor is None else tensor.unsqueeze(0) for tensor in tensors)
    backend = backend or wanted_backend()
    if backend == "mamba_ssm":
        # Only here, for it is optional; it differentiates itself, as does the plain loop.
        from reelscan.models.scan_mamba_ssm import published_scan

        y, last_state = published_scan(tensors, delta_softplus)
    elif backend == "reference":
        y, last_state = gated_reference(tensors, delta_softplus)
    else:
        y, last_state = differentiable_scan(tensors, delta_softplus, backend)
    if not grouped:
        y, last_state = y.squeeze(0), last_state.squeeze(0)
    return ScanOutput(y=y, last_state=last_state)


def _check_shapes(given: dict[str, Tensor]) -> None:
    u, A = given["u"], given["A"]
    if u.dim() not in (3, 4) or 0 in u.shape:
        raise ValueError(f"u is {tuple(u.shape)}; give [B, L, D] or [G, B, L, D], no axis empty")
    if A.dim() != u.dim() - 1:
        raise ValueError(
            f"A is {tuple(A.shape)} beside u {tuple(u.shape)}; give [D, S] or [G, D, S]"
        )
    groups, (clips, length, channels), states = tuple(u.shape[:-3]), u.shape[-3:], A.shape[-1]
    expected = {
        **dict.fromkeys(("u", "delta", "z"), (clips, length, channels)),
        **dict.fromkeys(("B", "C"), (clips, length, states)),
        **dict.fromkeys(("D", "delta_bias"), (channels,)),
        "A": (channels, states),
        "initial_state": (clips, channels, states),
    }
    for name, tensor in given.items():
        if tuple(tensor.shape) != groups + expected[name]:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}; beside u {tuple(u.shape)} and A "
                f"{tuple(A.shape)} it must be {groups + expected[name]}"
            )
