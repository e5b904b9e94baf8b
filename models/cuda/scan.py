"""Selective scans on a GPU, group by group in either direction; nothing here knows of gradients.

Axes: G groups, B clips, L sequence length, D channels, S states; P is S padded to a multiple of 4.
Everything lies in the order of the sequence, also what belongs to a reversed group.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from reelscan.models.cuda.arguments import Value
from reelscan.models.cuda.compiler import KernelError
from reelscan.models.cuda.launcher import (
    ELEMENTS,
    KernelSource,
    Macros,
    in_fours,
    in_sixteens,
    load_kernel,
)
from reelscan.models.cuda.scan_inputs import ForwardOutputs, ScanGradients, ScanInputs
from reelscan.models.cuda.scan_plan import (
    CHECKPOINT_STEPS,
    TILE_STEPS,
    BackwardPlan,
    ForwardPlan,
    padded_states,
    plan_backward,
    plan_forward,
)

_SHARED_ARGUMENTS = """
    const element* u; const element* delta; const element* B; const float* A; const float* bias;
    long long u_group; long long u_clip; long long u_row;
    long long delta_group; long long delta_clip; long long delta_row;
    long long B_group; long long B_clip; long long B_row;
    int clips; int length; int channels; int chunks; int chunk_steps; int groups; int first_group;
    int reversed_groups;
"""
_C_ARGUMENTS = (
    "const element* C; long long C_group; long long C_clip; long long C_row; const float* D;"
)
FORWARD = KernelSource(
    file="scan_forward.cu",
    name="scan_forward",
    arguments=_SHARED_ARGUMENTS
    + _C_ARGUMENTS
    + """
    const element* z; long long z_group; long long z_clip; long long z_row; const element* other;
    const float* start; element* y; float* last; float* checkpoints; int checkpoint_tiles;
    int* meetings; float* handed;
    """,
    headers=("tiles.cuh",),
)
_CARRY_ARGUMENTS = _SHARED_ARGUMENTS + "const float* initial; float* carry; float* times;"
CARRY, COMBINE = (
    KernelSource(
        file="scan_carry.cu", name=name, arguments=_CARRY_ARGUMENTS, headers=("tiles.cuh",)
    )
    for name in ("scan_carry", "combine_carries")
)
BACKWARD = KernelSource(
    file="scan_backward.cu",
    name="scan_backward",
    arguments=_SHARED_ARGUMENTS
    + _C_ARGUMENTS
    + """
    const element* grad_y; long long grad_y_group; long long grad_y_clip; long long grad_y_row;
    const float* carry; const float* checkpoints; int checkpoint_tiles;
    element* grad_u; element* grad_delta; float* grad_BC; float* grad_A; float* grad_D_bias;
    float* grad_start;
    """,
)


def run_forward(
    inputs: ScanInputs,
    outputs: ForwardOutputs,
    *,
    start: Tensor | None = None,
    z: Tensor | None = None,
    other: Tensor | None = None,
    group: int | None = None,
    meets: bool = False,
    plan: ForwardPlan | None = None,
) -> None:
    """Scan all groups, or the one that is named, from `start` [G, B, D, S] or zero.

    What is written to y is (scan + D u + other) silu(z), with z [G, B, L, D] and other [B, L, D]
    where given. With `meets` two opposite groups write their sum to y [1, B, L, D], in one launch;
    that wants a plan of one chunk.
    """
    groups, clips, length, channels, _ = inputs.sizes
    scanned = groups if group is None else 1
    plan = plan or forward_plan(inputs, groups=scanned, meets=meets)
    lane_macros = _lane_macros(plan)
    entering = _entering_states(inputs, start, plan, lane_macros, group)
    copied = [t for t in (inputs.u, inputs.delta, z, other, outputs.y) if t is not None]
    macros = (
        *_element_macros(inputs, [inputs.B, inputs.C]),
        *lane_macros,
        ("WIDE", int(all(in_sixteens(tensor) for tensor in copied))),
        ("UNROLLED", plan.unrolled),
        ("RESIDENT", plan.resident),
        ("GATED", int(z is not None)),
        ("ADDED", int(other is not None)),
        ("WRITES", int(outputs.y is not None)),
        ("MEETS", int(meets)),
        ("SLICED", int(meets and plan.slices > 1)),
        ("CHECKPOINT", CHECKPOINT_STEPS if outputs.checkpoints is not None else 0),
    )
    z_strides = (0, 0, 0) if z is None else z.stride()[:3]
    values: dict[str, Value] = {
        **_shared_values(inputs, plan.chunks, plan.chunk_steps, group),
        **_named_strides("C", inputs.C),
        "D": inputs.D,
        "z": z,
        **dict(zip(("z_group", "z_clip", "z_row"), z_strides, strict=True)),
        "other": other,
        "start": entering,
        "y": outputs.y,
        "last": outputs.last,
        "checkpoints": outputs.checkpoints,
        "checkpoint_tiles": _checkpoint_tiles(length),
        "meetings": None,
        "handed": None,
    }
    blocks = scanned * clips * plan.chunks * -(-channels // plan.channels)
    if meets:
        more, blocks = _meeting(inputs, plan, blocks)
        values |= more
    load_kernel(FORWARD, macros, inputs.u.device).launch(
        values,
        blocks=blocks,
        threads=plan.threads,
    )


def _meeting(inputs: ScanInputs, plan: ForwardPlan, blocks: int) -> tuple[dict[str, Value], int]:
    """What two directions that meet need beside the rest, and how many blocks then run."""
    groups, clips, length, channels, states = inputs.sizes
    assert groups == 2 and plan.chunks == 1
    device = inputs.u.device
    flags = torch.zeros(2 * blocks + 1, dtype=torch.int32, device=device)
    if plan.slices == 1:
        return {"meetings": flags}, blocks
    steps = -(-length // plan.slices // TILE_STEPS) * TILE_STEPS
    slices = -(-length // steps)
    shape = (groups, clips, channels, padded_states(states))
    handed = torch.empty(shape, dtype=torch.float32, device=device)
    sliced: dict[str, Value] = {
        "meetings": flags,
        "handed": handed,
        "chunks": slices,
        "chunk_steps": steps,
    }
    return sliced, min(blocks * slices, plan.resident * inputs.multiprocessors())


def forward_plan(inputs: ScanInputs, *, groups: int, meets: bool = False) -> ForwardPlan:
    """How a launch that scans so many of the groups is cut."""
    _, clips, length, channels, states = inputs.sizes
    return plan_forward(
        sequences=groups * clips,
        length=length,
        channels=channels,
        states=states,
        multiprocessors=inputs.multiprocessors(),
        meets=meets,
    )


def new_checkpoints(inputs: ScanInputs) -> Tensor:
    """Memory for the states that the backward pass starts from again."""
    groups, clips, length, channels, states = inputs.sizes
    shape = (groups, clips, _checkpoint_tiles(length), channels, padded_states(states))
    return torch.empty(shape, dtype=torch.float32, device=inputs.u.device)


def run_backward(
    inputs: ScanInputs,
    grad_y: Tensor,
    checkpoints: Tensor,
    *,
    grad_last: Tensor | None = None,
    wants_start: bool = False,
    plan: BackwardPlan | None = None,
) -> ScanGradients:
    """The gradients of all groups, from those of y [G, B, L, D] and the last state [G, B, D, S]."""
    groups, clips, length, channels, states = inputs.sizes
    plan = plan or plan_backward(
        sequences=groups * clips,
        length=length,
        channels=channels,
        states=states,
        multiprocessors=inputs.multiprocessors(),
    )
    carry = _entering_gradients(inputs, grad_y, grad_last, plan)
    padded, tiles = padded_states(states), -(-channels // plan.channels)
    grad_u = torch.empty(inputs.u.shape, dtype=inputs.u.dtype, device=inputs.u.device)
    grad_delta = torch.empty_like(grad_u)
    device = inputs.u.device
    grad_BC = torch.empty(
        tiles, groups, clips, length, 2, padded, dtype=torch.float32, device=device
    )
    chunks = clips * plan.chunks
    grad_A = torch.empty(groups, chunks, channels, padded, dtype=torch.float32, device=device)
    grad_D_bias = torch.empty(groups, chunks, 2, channels, dtype=torch.float32, device=device)
    grad_start = None
    if wants_start:
        shape = (groups, clips, channels, states)
        grad_start = torch.empty(shape, dtype=torch.float32, device=device)
    tensors = [inputs.u, inputs.delta, inputs.B, inputs.C, grad_y, grad_u, grad_delta]
    macros = (
        *_element_macros(inputs, tensors),
        ("WARPS", plan.warps),
        ("PER", plan.per_thread),
        ("STEPS", CHECKPOINT_STEPS),
        ("PARTS", plan.parts),
        ("RESIDENT", plan.resident),
        ("FMA_EXPONENTIALS", plan.fma_exponentials),
    )
    values: dict[str, Value] = {
        **_shared_values(inputs, plan.chunks, plan.chunk_steps, None),
        **_named_strides("C", inputs.C),
        "D": inputs.D,
        **_named_strides("grad_y", grad_y),
        "carry": carry,
        "checkpoints": checkpoints,
        "checkpoint_tiles": _checkpoint_tiles(length),
        "grad_u": grad_u,
        "grad_delta": grad_delta,
        "grad_BC": grad_BC,
        "grad_A": grad_A,
        "grad_D_bias": grad_D_bias,
        "grad_start": grad_start,
    }
    load_kernel(BACKWARD, macros, device).launch(
        values,
        blocks=groups * chunks * tiles,
        threads=32 * plan.warps,
        shared_bytes=_backward_shared_bytes(plan, padded),
    )
    return ScanGradients(
        u=grad_u,
        delta=grad_delta,
        BC=grad_BC.sum(0),
        A=grad_A[..., :states].sum(1),
        D=grad_D_bias[:, :, 0].sum(1),
        bias=grad_D_bias[:, :, 1].sum(1),
        start=grad_start,
    )


def _entering_states(
    inputs: ScanInputs,
    start: Tensor | None,
    plan: ForwardPlan,
    lane_macros: Macros,
    group: int | None,
) -> Tensor | None:
    """The state that enters each chunk, [G, B, chunks, D, P]."""
    if plan.chunks == 1:
        return None if start is None else _padded(start).unsqueeze(2)
    wide = int(in_sixteens(inputs.u) and in_sixteens(inputs.delta))
    macros = (*_element_macros(inputs, [inputs.B]), *lane_macros, ("WIDE", wide))
    values = _shared_values(inputs, plan.chunks, plan.chunk_steps, group)
    return _carries(inputs, values, start, (*macros, ("GRADIENT", 0)), plan, group)


def _entering_gradients(
    inputs: ScanInputs, grad_y: Tensor, grad_last: Tensor | None, plan: BackwardPlan
) -> Tensor | None:
    """The gradient that enters each chunk from behind, [G, B, chunks, D, P]."""
    if plan.chunks == 1:
        return None if grad_last is None else _padded(grad_last).unsqueeze(2)
    groups, clips, _, channels, states = inputs.sizes
    walk = plan_forward(
        sequences=groups * clips * plan.chunks,
        length=plan.chunk_steps,
        channels=channels,
        states=states,
        multiprocessors=inputs.multiprocessors(),
    )
    macros = (
        *_element_macros(inputs, [inputs.C]),
        *_lane_macros(walk),
        ("WIDE", int(in_sixteens(grad_y) and in_sixteens(inputs.delta))),
        ("GRADIENT", 1),
    )
    values = _shared_values(inputs, plan.chunks, plan.chunk_steps, None)
    values |= {"u": grad_y, **_strides("u", grad_y), "B": inputs.C, **_strides("B", inputs.C)}
    return _carries(inputs, values, grad_last, macros, walk, None, chunks=plan.chunks)


def _carries(
    inputs: ScanInputs,
    values: Mapping[str, Value],
    initial: Tensor | None,
    macros: Macros,
    plan: ForwardPlan,
    group: int | None,
    *,
    chunks: int | None = None,
) -> Tensor:
    groups, clips, _, channels, states = inputs.sizes
    chunks, device, padded = chunks or plan.chunks, inputs.u.device, padded_states(states)
    carry = torch.empty(groups, clips, chunks, channels, padded, dtype=torch.float32, device=device)
    times = torch.empty(groups, clips, chunks, channels, dtype=torch.float32, device=device)
    given = {**values, "initial": initial, "carry": carry, "times": times}
    scanned = groups if group is None else 1
    load_kernel(CARRY, macros, device).launch(
        given,
        blocks=scanned * clips * chunks * -(-channels // plan.channels),
        threads=plan.threads,
    )
    threads = groups * clips * channels * padded
    load_kernel(COMBINE, macros, device).launch(given, blocks=-(-threads // 256), threads=256)
    return carry


def _shared_values(
    inputs: ScanInputs, chunks: int, chunk_steps: int, group: int | None
) -> dict[str, Value]:
    groups, clips, length, channels, _ = inputs.sizes
    if length * max(inputs.u.stride(2), inputs.delta.stride(2), inputs.B.stride(2)) >= 2**31:
        raise KernelError(
            f"a sequence of {length} steps is too long for the GPU kernels, which count its "
            "elements in 32 bits; cut it into parts, or take scan 'chunked'"
        )
    return {
        **_named_strides("u", inputs.u),
        **_named_strides("delta", inputs.delta),
        **_named_strides("B", inputs.B),
        "A": inputs.A,
        "bias": inputs.bias,
        "clips": clips,
        "length": length,
        "channels": channels,
        "chunks": chunks,
        "chunk_steps": chunk_steps,
        "groups": groups,
        "first_group": group or 0,
        "reversed_groups": inputs.reversed_groups,
    }


def _named_strides(name: str, tensor: Tensor) -> dict[str, Value]:
    return {name: tensor, **_strides(name, tensor)}


def _strides(name: str, tensor: Tensor) -> dict[str, Value]:
    group, clip, row, last = tensor.stride()
    assert last == 1 or tensor.shape[-1] == 1, f"{name} has strides {tensor.stride()}"
    return {f"{name}_group": group, f"{name}_clip": clip, f"{name}_row": row}


def _lane_macros(plan: ForwardPlan) -> Macros:
    return (
        ("LANES", plan.lanes),
        ("CHANNELS", plan.channels),
        ("STEPS", TILE_STEPS),
        ("FMA_EXPONENTIALS", plan.fma_exponentials),
    )


def _element_macros(inputs: ScanInputs, tensors: list[Tensor]) -> Macros:
    return (
        ("ELEMENT", ELEMENTS[inputs.u.dtype]),
        ("STATES", inputs.A.shape[-1]),
        ("SOFTPLUS", int(inputs.softplus)),
        ("VECTOR", int(all(in_fours(tensor) for tensor in tensors))),
    )


def _padded(state: Tensor) -> Tensor:
    padding = padded_states(state.shape[-1]) - state.shape[-1]
    return torch.nn.functional.pad(state, (0, padding)) if padding else state.contiguous()


def _checkpoint_tiles(length: int) -> int:
    return -(-length // CHECKPOINT_STEPS)


def _backward_shared_bytes(plan: BackwardPlan, padded: int) -> int:
    """The size of `Shared` in scan_backward.cu."""
    threads, steps = 32 * plan.warps, CHECKPOINT_STEPS
    states = steps // plan.parts * plan.per_thread * threads * padded // 4
    tile = steps * (3 * plan.channels + 2 * padded + plan.warps * 2 * padded)
    return 4 * (states + tile)
