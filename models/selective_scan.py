"""The selective scan of Mamba, channel-last, with the choice of how it is computed.

Axes: G groups (optional, leading), B clips, L sequence length, D inner channels, S states.
"""

from dataclasses import dataclass
from functools import reduce
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.scan_chunked import chunked_recurrence
from reelscan.models.scan_reference import reference_recurrence

ScanBackend = Literal["chunked", "reference"]


@dataclass(frozen=True, kw_only=True)
class ScanOutput:
    """`y` [B, L, D] in u's dtype, `last_state` [B, D, S] in float32 or wider; G leads both where it led the input."""

    y: Tensor
    last_state: Tensor


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
    backend: ScanBackend = "chunked",
) -> ScanOutput:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t;  y_t = (C_t h_t + D u_t) silu(z_t)  (Gu and Dao, 2023).

    u, delta, z [B, L, D]; A [D, S]; B, C [B, L, S]; D, delta_bias [D]; initial_state [B, D, S] (zeros by default).
    delta gets `delta_bias` added and passes softplus if told. Computed in float32, or float64 if any input is.
    Every tensor may carry a leading axis G of scans that run at once, each with its own A, D and delta_bias:
    u [G, B, L, D], A [G, D, S], ... Raises ValueError for shapes that do not fit.
    """
    grouped = u.dim() == 4
    _check_shapes(u, delta, A, B, C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state)
    with torch.autocast(u.device.type, enabled=False):
        out_dtype = u.dtype
        given = [u, delta, A, B, C, D, z, delta_bias, initial_state]
        dtype = reduce(
            torch.promote_types, (t.dtype for t in given if t is not None), torch.float32
        )
        u, delta, A, B, C, D, z, delta_bias, initial_state = (
            t if t is None else (t if grouped else t.unsqueeze(0)).to(dtype) for t in given
        )
        assert u is not None and delta is not None and A is not None
        assert B is not None and C is not None
        if delta_bias is not None:
            delta = delta + delta_bias[:, None, None, :]
        if delta_softplus:
            delta = functional.softplus(delta)
        if initial_state is None:
            initial_state = u.new_zeros(*u.shape[:2], *A.shape[1:])
        recurrence = chunked_recurrence if backend == "chunked" else reference_recurrence
        y, last_state = recurrence(u, delta, A, B, C, initial_state)
        if D is not None:
            y = torch.addcmul(y, u, D[:, None, None, :])
        if z is not None:
            y = y * functional.silu(z)
        y = y.to(out_dtype)
    if grouped:
        return ScanOutput(y=y, last_state=last_state)
    return ScanOutput(y=y.squeeze(0), last_state=last_state.squeeze(0))


def _check_shapes(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
) -> None:
    if u.dim() not in (3, 4) or 0 in u.shape:
        raise ValueError(
            f"u is {tuple(u.shape)}; it must be [B, L, D] or [G, B, L, D], none of them 0"
        )
    if A.dim() != u.dim() - 1:
        raise ValueError(
            f"A is {tuple(A.shape)} beside u {tuple(u.shape)}; give [D, S], or [G, D, S]"
        )
    groups, (batch, length, channels), states = tuple(u.shape[:-3]), u.shape[-3:], A.shape[-1]
    expected = {
        "delta": (delta, (batch, length, channels)),
        "A": (A, (channels, states)),
        "B": (B, (batch, length, states)),
        "C": (C, (batch, length, states)),
        "D": (D, (channels,)),
        "z": (z, (batch, length, channels)),
        "delta_bias": (delta_bias, (channels,)),
        "initial_state": (initial_state, (batch, channels, states)),
    }
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != groups + shape:
            raise ValueError(
                f"{name} is {tuple(tensor.shape)}; with this u and A it must be {groups + shape}"
            )
