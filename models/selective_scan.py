"""The selective scan of Mamba, channel-last, and the choice of how it is computed.

Axes: G groups (optional, leading), B clips, L sequence length, D inner channels, S states.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.scan_chunked import chunked_scan
from reelscan.models.scan_reference import reference_scan

ScanBackend = Literal["fused", "chunked", "reference"]
_Scan = Callable[..., tuple[Tensor, Tensor]]


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
    delta_bias. Raises ValueError for shapes that do not fit. Source: Gu and Dao, 2023.
    """
    optional = {"D": D, "z": z, "delta_bias": delta_bias, "initial_state": initial_state}
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C}
    given |= {name: tensor for name, tensor in optional.items() if tensor is not None}
    _check_shapes(given)
    dtype = reduce(torch.promote_types, (t.dtype for t in given.values()), torch.float32)
    grouped = u.dim() == 4
    with torch.autocast(u.device.type, enabled=False):
        ready = {name: t.to(dtype) for name, t in given.items()}
        if not grouped:
            ready = {name: t.unsqueeze(0) for name, t in ready.items()}
        gate = ready.pop("z", None)
        if "initial_state" not in ready:
            ready["initial_state"] = ready["u"].new_zeros(*ready["u"].shape[:2], *A.shape[-2:])
        y, last_state = _implementation(backend or default_backend(u.device, dtype)[0])(
            **{"D": None, "delta_bias": None} | ready, delta_softplus=delta_softplus
        )
        if gate is not None:
            y = y * functional.silu(gate)
    if not grouped:
        y, last_state = y.squeeze(0), last_state.squeeze(0)
    return ScanOutput(y=y.to(u.dtype), last_state=last_state)


def default_backend(device: torch.device, dtype: torch.dtype) -> tuple[ScanBackend, str]:
    """What computes a scan in this dtype there, and why."""
    if device.type != "cpu" or dtype != torch.float32:
        return "chunked", f"plain PyTorch, for {dtype} on {device.type}"
    obstacle = _why_not_fused()
    if obstacle:
        return "chunked", f"plain PyTorch, for Numba does not import: {obstacle}"
    return "fused", "compiled by Numba, for torch.float32 on cpu"


@cache
def _why_not_fused() -> str | None:
    try:
        import reelscan.models.scan_fused  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def _implementation(backend: ScanBackend) -> _Scan:
    if backend == "fused":
        # Only here, for Numba takes a second to import.
        from reelscan.models.scan_fused import fused_scan

        return fused_scan
    return chunked_scan if backend == "chunked" else reference_scan


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
