"""Scans with all their gradients, to compare the GPU's kernels with the plain loop in float64.

Axes: G groups, B clips, L sequence length, D channels, S states.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from reelscan.models.cuda.scan import new_checkpoints, run_backward, run_forward
from reelscan.models.cuda.scan_inputs import ForwardOutputs, ScanInputs
from reelscan.models.cuda.scan_plan import BackwardPlan, ForwardPlan
from reelscan.models.scan_reference import reference_scan


@dataclass(frozen=True, kw_only=True)
class Case:
    """A scan and how it is cut."""

    groups: int = 1
    clips: int = 1
    length: int
    channels: int
    states: int = 16
    dtype: torch.dtype = torch.float32
    reversed_groups: int = 0
    softplus: bool = True
    start: bool = False
    strided: bool = False
    """Whether the tensors are columns of wider ones."""
    plan: ForwardPlan | None = None
    backward_plan: BackwardPlan | None = None


def _columns(tensor: Tensor, case: Case) -> Tensor:
    if not case.strided:
        return tensor
    wider = torch.cat([torch.full_like(tensor, torch.nan), tensor], dim=-1)
    return wider[..., tensor.shape[-1] :]


def worst_errors(case: Case, device: torch.device | str = "cpu") -> dict[str, float]:
    """For y, the last state and every gradient: the largest error over the largest value."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.groups, case.clips, case.length)
    channels, states = case.channels, case.states

    def normal(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(sizes, generator=generator).to(dtype=dtype, device=device)

    u = normal(*shape, channels, dtype=case.dtype)
    delta = (normal(*shape, channels) - 1).to(case.dtype)
    if not case.softplus:
        delta = delta.abs() / 4
    B, C = (normal(*shape, states, dtype=case.dtype) for _ in range(2))
    A = -2 * torch.rand(case.groups, channels, states, generator=generator).to(device)
    D, bias = (normal(case.groups, channels) for _ in range(2))
    if not case.softplus:
        bias = bias.abs() / 10
    state_shape = (case.groups, case.clips, channels, states)
    start = normal(*state_shape) if case.start else None
    grad_y, grad_last = normal(*shape, channels, dtype=case.dtype), normal(*state_shape)

    inputs = ScanInputs(
        u=_columns(u, case),
        delta=_columns(delta, case),
        B=_columns(B, case),
        C=_columns(C, case),
        A=A,
        D=D,
        bias=bias,
        softplus=case.softplus,
        reversed_groups=case.reversed_groups,
    )
    y, last = torch.full_like(u, torch.nan), torch.full(state_shape, torch.nan, device=device)
    checkpoints = new_checkpoints(inputs).fill_(torch.nan)
    outputs = ForwardOutputs(y=y, last=last, checkpoints=checkpoints)
    run_forward(inputs, outputs, start=start, plan=case.plan)
    found = run_backward(
        inputs,
        grad_y,
        checkpoints,
        grad_last=grad_last,
        wants_start=True,
        plan=case.backward_plan,
    )
    given = (u, delta, A, B, C, D, bias)
    expected = _expected(case, given, start, grad_y, grad_last)
    assert found.start is not None
    ours = (y, last, found.u, found.delta, found.A, found.BC[..., 0, :states])
    ours += (found.BC[..., 1, :states], found.D, found.bias, found.start)
    names = ("y", "last", "u", "delta", "A", "B", "C", "D", "bias", "start")
    return {
        name: ((one.double() - other).abs().max() / (other.abs().max() or 1.0)).item()
        for name, one, other in zip(names, ours, expected, strict=True)
    }


def _expected(
    case: Case,
    given: tuple[Tensor, ...],
    start: Tensor | None,
    grad_y: Tensor,
    grad_last: Tensor,
) -> tuple[Tensor, ...]:
    """y, the last state and the gradients of the plain loop, in float64."""

    def in_order(tensor: Tensor) -> Tensor:
        groups = [
            one.flip(1) if case.reversed_groups >> number & 1 else one
            for number, one in enumerate(tensor)
        ]
        return torch.stack(groups)

    leaves = [one.double().clone().requires_grad_() for one in given]
    u, delta, A, B, C, D, bias = leaves
    first = torch.zeros_like(grad_last) if start is None else start
    first = first.double().clone().requires_grad_()
    y, last = reference_scan(
        in_order(u),
        in_order(delta),
        A,
        in_order(B),
        in_order(C),
        D=D,
        delta_bias=bias,
        delta_softplus=case.softplus,
        initial_state=first,
    )
    y = in_order(y)
    gradients = torch.autograd.grad(
        [y, last], [*leaves, first], [grad_y.double(), grad_last.double()]
    )
    return (y, last, *gradients)
