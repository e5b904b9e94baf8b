"""A mixer but for its input projection as one operator on a GPU.

Its backward pass keeps the operator's inputs only and computes the rest again. Both directions lie
in the order of the sequence, and the second scan adds the first's output and gates the sum.

Axes: G directions, B clips, L sequence length, D channels, S states, K taps, R rank of the time
steps (padded to Q, a multiple of eight), C model width.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models.cuda.convolve import convolve, convolve_backward
from reelscan.models.cuda.gate import gate_backward
from reelscan.models.cuda.gather import NAMES, GatheredWeights, gather_weights
from reelscan.models.cuda.scan import forward_plan, new_checkpoints, run_backward, run_forward
from reelscan.models.cuda.scan_inputs import ForwardOutputs, ScanInputs

SECOND_REVERSED = 0b10
"""Of the scan's groups, the second runs against the sequence."""


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """What the scans start from, made of the operator's inputs."""

    weights: GatheredWeights
    convolved: Tensor
    """[G, B, L, D]"""
    projected: Tensor
    """[G, B L, Q + 2 S]"""
    scan: ScanInputs


def _prepare(x: Tensor, weights: list[Tensor]) -> _Prepared:
    gathered = gather_weights(weights, dtype=x.dtype)
    groups, channels, states = gathered.A.shape
    clips, length, _ = x.shape
    rank = gathered.rank
    convolved = convolve(x, gathered.conv_weight, gathered.conv_bias)
    projected = torch.bmm(
        convolved.view(groups, clips * length, channels), gathered.x_proj.transpose(1, 2)
    )
    delta = torch.bmm(projected[..., :rank], gathered.dt_weight.transpose(1, 2))
    of_clips = projected.view(groups, clips, length, -1)
    scan = ScanInputs(
        u=convolved,
        delta=delta.view(groups, clips, length, channels),
        B=of_clips[..., rank : rank + states],
        C=of_clips[..., rank + states :],
        A=gathered.A,
        D=gathered.D,
        bias=gathered.dt_bias,
        softplus=True,
        reversed_groups=SECOND_REVERSED,
    )
    return _Prepared(weights=gathered, convolved=convolved, projected=projected, scan=scan)


def _scan_all(scan: ScanInputs, *, z: Tensor | None, checkpoints: Tensor | None = None) -> Tensor:
    """The directions summed [B, L, D], gated where z is given."""
    groups = scan.u.shape[0]
    gate = None if z is None else z.unsqueeze(0).expand(groups, -1, -1, -1)
    plan = forward_plan(scan, groups=groups, meets=groups == 2)
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
def mix_directions(xz: Tensor, weights: list[Tensor], out_weight: Tensor) -> Tensor:
    """Convolve, scan, sum, gate, project: xz [B, L, 2 D] -> [B, L, C] in its dtype.

    weights are those of `gather.NAMES`, direction by direction; out_weight [C, D]. Matrices are
    brought to xz's dtype, the rest is used in float32.
    """
    xz = xz.contiguous()
    x, z = xz.chunk(2, dim=-1)
    gated = _scan_all(_prepare(x, weights).scan, z=z)
    return functional.linear(gated, out_weight.to(gated.dtype))


@torch.library.custom_op("reelscan::mix_directions_backward", mutates_args=())
def mix_directions_backward(
    grad: Tensor, xz: Tensor, weights: list[Tensor], out_weight: Tensor
) -> list[Tensor]:
    """The gradients of xz and out_weight, and in float32 those of `gather.NAMES`, [G, ...] each."""
    xz, grad = xz.contiguous(), grad.to(xz.dtype).contiguous()
    x, z = xz.chunk(2, dim=-1)
    prepared = _prepare(x, weights)
    gathered, scan, rank = prepared.weights, prepared.scan, prepared.weights.rank
    groups, clips, length, channels, states = scan.sizes
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
    grad_delta = scanned.delta.view(groups, clips * length, channels)
    torch.bmm(grad_delta, gathered.dt_weight, out=grad_projected[..., :rank])
    by_state = grad_projected[..., rank:].view(groups, clips * length, 2, states)
    by_state.copy_(scanned.BC[..., :states].flatten(1, 2))
    grad_dt_weight = _weight_gradient(grad_delta, prepared.projected[..., :rank], clips)
    convolved = prepared.convolved.view(groups, clips * length, channels)
    grad_x_proj = _weight_gradient(grad_projected, convolved, clips)
    through_projection = torch.bmm(grad_projected, gathered.x_proj)
    grad_conv_weight, grad_conv_bias = convolve_backward(
        x,
        gathered.conv_weight,
        gathered.conv_bias,
        scanned.u,
        more_grad_y=through_projection,
        grad_x=grad_x,
    )
    unpadded = weights[3].shape[1]
    return [
        grad_xz,
        grad_out_weight.to(out_weight.dtype),
        grad_conv_weight.contiguous(),
        grad_conv_bias,
        torch.cat([grad_x_proj[:, :unpadded], grad_x_proj[:, rank:]], dim=1),
        grad_dt_weight[..., :unpadded].clone(),
        scanned.bias,
        scanned.A * gathered.A,
        scanned.D,
    ]


def _weight_gradient(left: Tensor, right: Tensor, clips: int) -> Tensor:
    """sum over clips and positions of left [G, B L, P] and right [G, B L, Q]: [G, P, Q] float32.

    Clip by clip, then summed: a product this narrow over all positions at once would keep few
    multiprocessors busy.
    """
    groups, rows, _ = left.shape
    by_clip = (groups * clips, rows // clips, -1)
    products = torch.bmm(left.reshape(by_clip).transpose(1, 2), right.reshape(by_clip))
    return products.view(groups, clips, *products.shape[1:]).sum(1, dtype=torch.float32)


@mix_directions.register_fake
def _mixed_shape(xz: Tensor, weights: list[Tensor], out_weight: Tensor) -> Tensor:
    return xz.new_empty(*xz.shape[:2], out_weight.shape[0])


@mix_directions_backward.register_fake
def _gradient_shapes(
    grad: Tensor, xz: Tensor, weights: list[Tensor], out_weight: Tensor
) -> list[Tensor]:
    groups = len(weights) // len(NAMES)
    of_weights = [
        one.new_empty((groups, *_unsplit(one).shape), dtype=torch.float32)
        for one in weights[: len(NAMES)]
    ]
    return [xz.new_empty(xz.shape), out_weight.new_empty(out_weight.shape), *of_weights]


def _unsplit(weight: Tensor) -> Tensor:
    """Without the axis that a convolution's weight has for its single input channel."""
    return weight[:, 0] if weight.dim() == 3 else weight


def _keep(ctx: Any, inputs: tuple[Tensor, list[Tensor], Tensor], output: Tensor) -> None:
    xz, weights, out_weight = inputs
    ctx.save_for_backward(xz, out_weight, *weights)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, list[Tensor], Tensor]:
    xz, out_weight, *weights = ctx.saved_tensors
    grad_xz, grad_out_weight, *stacked = mix_directions_backward(grad, xz, weights, out_weight)
    by_direction = [of_all[group] for group in range(len(stacked[0])) for of_all in stacked]
    of_weights = [
        gradient.to(weight.dtype).view_as(weight)
        for gradient, weight in zip(by_direction, weights, strict=True)
    ]
    return grad_xz, of_weights, grad_out_weight


mix_directions.register_autograd(_gradients, setup_context=_keep)
