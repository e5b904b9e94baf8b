"""The selective scan on NVIDIA GPUs: values, and all gradients.

Axes: G groups, B clips, L sequence length, D channels, S states.
"""

from functools import cache

import torch
from torch import Tensor

from reelscan.models.cuda.compiler import KernelError, nvrtc
from reelscan.models.cuda.gate import gate_backward
from reelscan.models.cuda.launcher import ELEMENTS, driver
from reelscan.models.cuda.scan import new_checkpoints, run_backward, run_forward
from reelscan.models.cuda.scan_inputs import ForwardOutputs, ScanInputs


@cache
def why_not_available() -> str | None:
    """What keeps the kernels from running on this machine; None if nothing does."""
    if not torch.cuda.is_available():
        return "PyTorch sees no CUDA device"
    if torch.version.hip is not None:
        return "this is a ROCm build of PyTorch, the kernels are for NVIDIA GPUs"
    try:
        nvrtc()
        driver()
    except KernelError as error:
        return str(error)
    return None


def scan_forward(
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
    delta_softplus: bool,
) -> tuple[Tensor, Tensor]:
    """y [G, B, L, D] in u's dtype, gated where z is given, and the last state [G, B, D, S].

    u, delta, z [G, B, L, D] and B, C [G, B, L, S] in one of float32, bfloat16, float16; the others
    in float32.
    """
    inputs = _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    groups, clips, _, channels, states = inputs.sizes
    last = torch.empty(groups, clips, channels, states, dtype=torch.float32, device=u.device)
    gate = None if z is None else _rows(z, u.dtype)
    run_forward(inputs, ForwardOutputs(y=y, last=last), start=_wide(initial_state), z=gate)
    return y, last


def scan_backward(
    grad_y: Tensor | None,
    grad_last_state: Tensor | None,
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
    delta_softplus: bool,
) -> tuple[Tensor | None, ...]:
    """The gradients of u, delta, A, B, C, D, z, delta_bias, initial_state, each in its own dtype.

    The states are computed again from the inputs; nothing of size L x D x S is ever held. Every run
    gives the same bits.
    """
    inputs = _inputs(u, delta, A, B, C, D, delta_bias, delta_softplus)
    ungated = None if z is None else torch.empty(u.shape, dtype=u.dtype, device=u.device)
    checkpoints = new_checkpoints(inputs)
    run_forward(
        inputs, ForwardOutputs(y=ungated, checkpoints=checkpoints), start=_wide(initial_state)
    )
    grad = torch.zeros_like(inputs.u) if grad_y is None else grad_y.to(u.dtype).contiguous()
    grad_z = None
    if z is not None:
        assert ungated is not None
        grad_z = torch.empty(z.shape, dtype=u.dtype, device=u.device)
        grad = gate_backward(ungated, z.to(u.dtype).contiguous(), grad, grad_z=grad_z).grad_sum
        grad_z = grad_z.to(z.dtype)
    gradients = run_backward(
        inputs,
        grad,
        checkpoints,
        grad_last=_wide(grad_last_state),
        wants_start=initial_state is not None,
    )
    states = A.shape[-1]
    return (
        gradients.u,
        gradients.delta.to(delta.dtype),
        gradients.A.to(A.dtype),
        gradients.BC[..., 0, :states].to(B.dtype, copy=True),
        gradients.BC[..., 1, :states].to(C.dtype, copy=True),
        None if D is None else gradients.D.to(D.dtype),
        grad_z,
        None if delta_bias is None else gradients.bias.to(delta_bias.dtype),
        gradients.start,
    )


def _inputs(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> ScanInputs:
    if u.dtype not in ELEMENTS:
        raise TypeError(f"u is {u.dtype}; the kernels take {', '.join(map(str, ELEMENTS))}")
    return ScanInputs(
        u=_rows(u, u.dtype),
        delta=_rows(delta, u.dtype),
        B=_rows(B, u.dtype),
        C=_rows(C, u.dtype),
        A=A.float().contiguous(),
        D=_wide(D),
        bias=_wide(delta_bias),
        softplus=delta_softplus,
    )


def _rows(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """In that dtype, its last axis in one piece."""
    tensor = tensor.to(dtype)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _wide(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.float().contiguous()
