"""All of a mixer between its input and output projections, and the latter, as one operator on a GPU.

Its backward pass keeps the operator's inputs only and computes the rest again. Both directions lie
in the order of the sequence, and the second scan adds the first's output and gates the sum.

Axes: G directions, B clips, L sequence length, D channels, S states, K taps, R rank of the time
steps (padded to Q, a multiple of eight), C model width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.cuda.convolve import convolve, convolve_backward
from reelscan.models.cuda.gate import gate_backward
from reelscan.models.cuda.scan import (
    ForwardOutputs,
    ScanInputs,
    new_checkpoints,
    run_backward,
    run_forward,
)
from reelscan.models.cuda.scan_plan import plan_forward

SECOND_REVERSED = 0b10
"""Of the scan's groups, the second runs against the sequence."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What the scans start from, made of the operator's inputs."""

    convolved: Tensor
    """[G, B, L, D]"""
    projected: Tensor
    """[G, B L, Q + 2 S]"""
    x_proj: Tensor
    """[G, Q + 2 S, D] in the dtype of xz, as dt_weight"""
    dt_weight: Tensor
    """[G, D, Q]"""
    rank: int
    """Q"""
    scan: ScanInputs


def _prepare(
    x: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
) -> _Prepared:
    groups, _, states = A.shape
    clips, length, channels = x.shape
    padding = -dt_weight.shape[2] % 8
    steps, rest = x_proj.split([dt_weight.shape[2], 2 * states], dim=1)
    x_proj = torch.cat([functional.pad(steps, (0, 0, 0, padding)), rest], dim=1).to(x.dtype)
    dt_weight = functional.pad(dt_weight, (0, padding)).to(x.dtype)
    rank = dt_weight.shape[2]
    convolved = convolve(x, conv_weight.float().contiguous(), conv_bias.float().contiguous())
    projected = torch.bmm(convolved.flatten(1, 2), x_proj.transpose(1, 2))
    delta = torch.bmm(projected[..., :rank], dt_weight.transpose(1, 2))
    of_clips = projected.view(groups, clips, length, -1)
    scan = ScanInputs(
        u=convolved,
        delta=delta.view(groups, clips, length, channels),
        B=of_clips[..., rank : rank + states],
        C=of_clips[..., rank + states :],
        A=A.float().contiguous(),
        D=D.float().contiguous(),
        bias=dt_bias.float().contiguous(),
        softplus=True,
        reversed_groups=SECOND_REVERSED,
    )
    return _Prepared(
        convolved=convolved,
        projected=projected,
        x_proj=x_proj,
        dt_weight=dt_weight,
        rank=rank,
        scan=scan,
    )


def _scan_all(scan: ScanInputs, *, z: Tensor | None, checkpoints: Tensor | None = None) -> Tensor:
    """The directions summed [B, L, D], gated where z is given."""
    groups, clips, length, channels, states = scan.sizes
    gate = None if z is None else z.unsqueeze(0).expand(groups, -1, -1, -1)
    plan = plan_forward(
        sequences=groups * clips,
        length=length,
        channels=channels,
        states=states,
        multiprocessors=scan.multiprocessors(),
    )
    if groups == 2 and plan.chunks == 1 and scan.u.is_cuda:
        y = torch.empty(1, *scan.u.shape[1:], dtype=scan.u.dtype, device=scan.u.device)
        outputs = ForwardOutputs(y=y, checkpoints=checkpoints)
        run_forward(scan, outputs, z=gate, meets=True, plan=plan)
        return y[0]
    earlier: Tensor | None = None
    for group in range(groups):
        y = torch.empty(1, *scan.u.shape[1:], dtype=scan.u.dtype, device=scan.u.device)
        run_forward(
            scan,
            ForwardOutputs(y=y, checkpoints=checkpoints),
            other=earlier,
            z=gate if group == groups - 1 else None,
            group=group,
        )
        earlier = y[0]
    assert earlier is not None
    return earlier


@torch.library.custom_op("reelscan::mix_directions", mutates_args=())
def mix_directions(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_weight: Tensor,
) -> Tensor:
    """Convolve, scan, sum, gate, project: xz [B, L, 2 D] -> [B, L, C] in its dtype.

    conv_weight [G, D, K], conv_bias [G, D], x_proj [G, R + 2 S, D], dt_weight [G, D, R], dt_bias
    [G, D], A [G, D, S], D [G, D], out_weight [C, D]; matrices are brought to xz's dtype, the rest
    is used in float32.
    """
    xz = xz.contiguous()
    x, z = xz.chunk(2, dim=-1)
    prepared = _prepare(x, conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
    gated = _scan_all(prepared.scan, z=z)
    return functional.linear(gated, out_weight.to(gated.dtype))


@torch.library.custom_op("reelscan::mix_directions_backward", mutates_args=())
def mix_directions_backward(
    grad: Tensor,
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_weight: Tensor,
) -> list[Tensor]:
    """The gradients of all inputs of `mix_directions`, in their order and dtypes."""
    xz, grad = xz.contiguous(), grad.to(xz.dtype).contiguous()
    x, z = xz.chunk(2, dim=-1)
    states, unpadded = A.shape[2], dt_weight.shape[2]
    prepared = _prepare(x, conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D)
    scan, rank = prepared.scan, prepared.rank
    groups, clips, length, channels, _ = scan.sizes
    checkpoints = new_checkpoints(scan)
    total = _scan_all(scan, z=None, checkpoints=checkpoints)

    grad_xz = torch.empty_like(xz)
    grad_x, grad_z = grad_xz.chunk(2, dim=-1)
    grad_gated = torch.matmul(grad, out_weight.to(grad.dtype))
    gate = gate_backward(total, z, grad_gated, grad_z=grad_z, again=True)
    assert gate.gated is not None
    grad_out_weight = grad.flatten(0, 1).t() @ gate.gated.flatten(0, 1)
    del total, grad_gated
    grad_y = gate.grad_sum.unsqueeze(0).expand(groups, -1, -1, -1)
    scanned = run_backward(scan, grad_y, checkpoints)
    del checkpoints, gate, grad_y

    grad_projected = torch.empty_like(prepared.projected)
    torch.bmm(scanned.delta.flatten(1, 2), prepared.dt_weight, out=grad_projected[..., :rank])
    by_state = grad_projected[..., rank:].unflatten(-1, (2, states))
    by_state.copy_(scanned.BC[..., :states].flatten(1, 2))
    steps = prepared.projected[..., :rank].view(groups, clips, length, rank)
    grad_dt_weight = _weight_gradient(scanned.delta, steps)
    grad_x_proj = _weight_gradient(
        grad_projected.view(groups, clips, length, -1), prepared.convolved
    )
    through_projection = torch.bmm(grad_projected, prepared.x_proj)
    grad_conv_weight, grad_conv_bias = convolve_backward(
        x,
        conv_weight.float().contiguous(),
        conv_bias.float().contiguous(),
        scanned.u,
        more_grad_y=through_projection,
        grad_x=grad_x,
    )
    grad_x_proj = torch.cat([grad_x_proj[:, :unpadded], grad_x_proj[:, rank:]], dim=1)
    return [
        grad_xz,
        grad_conv_weight.to(conv_weight.dtype).contiguous(),
        grad_conv_bias.to(conv_bias.dtype).contiguous(),
        grad_x_proj.to(x_proj.dtype),
        grad_dt_weight[..., :unpadded].to(dt_weight.dtype).contiguous(),
        scanned.bias.to(dt_bias.dtype).contiguous(),
        scanned.A.to(A.dtype).contiguous(),
        scanned.D.to(D.dtype).contiguous(),
        grad_out_weight.to(out_weight.dtype),
    ]


def _weight_gradient(left: Tensor, right: Tensor) -> Tensor:
    """sum over clips and positions of left [G, B, L, P] and right [G, B, L, Q]: [G, P, Q] float32.

    Clip by clip, then summed: a product this narrow over all positions at once would keep few
    multiprocessors busy.
    """
    groups, clips = left.shape[:2]
    products = torch.bmm(left.flatten(0, 1).transpose(1, 2), right.flatten(0, 1))
    return products.unflatten(0, (groups, clips)).sum(1, dtype=torch.float32)


@mix_directions.register_fake
def _mixed_shape(
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_weight: Tensor,
) -> Tensor:
    return xz.new_empty(*xz.shape[:2], out_weight.shape[0])


@mix_directions_backward.register_fake
def _gradient_shapes(
    grad: Tensor,
    xz: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    x_proj: Tensor,
    dt_weight: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_weight: Tensor,
) -> list[Tensor]:
    inputs = (xz, conv_weight, conv_bias, x_proj, dt_weight, dt_bias, A, D, out_weight)
    return [torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs]


def _keep(ctx: object, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)  # type: ignore[attr-defined]


def _gradients(ctx: object, grad: Tensor) -> tuple[Tensor, ...]:
    return tuple(mix_directions_backward(grad, *ctx.saved_tensors))  # type: ignore[attr-defined]


mix_directions.register_autograd(_gradients, setup_context=_keep)
