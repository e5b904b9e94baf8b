"""The selective scan on a CPU in float32, one pass over the sequence in compiled kernels.

The backward pass recomputes the states of a chunk from the one that entered it. Compiling takes
seconds the first time; Numba keeps the result for later processes.

Axes: G groups, B clips, L sequence length, D channels, S states; see `scan_kernels` for the rest.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from reelscan.models import scan_backward_kernels, scan_kernels
from reelscan.models.kernel_threads import run_tasks
from reelscan.models.scan_kernels import Gradients, Inputs, Outputs, Scratch, Sizes
from reelscan.models.simd_lanes import LANES

CHUNK_VECTORS = 256
"""Steps of a chunk times S: states of sixteen channels that are recomputed at once, 16 kB."""
CHUNK_STEPS = (4, 32)
"""Fewest and most steps of a chunk."""
TASK_CHANNELS = 192
"""Most channels of a task."""
PARTS = 8
"""Into which the clips are cut: enough for many threads, while their sums are few."""


def fused_forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor]:
    """The same function of the same tensors as `reference_scan`.

    Raises ValueError unless the tensors are float32 on the CPU.
    """
    padded = _padded(u, delta, A, B, C, D, delta_bias, initial_state)
    y, last_state, _ = _forward(padded, delta_softplus, keep=False)
    channels = u.shape[-1]
    return y[..., :channels], last_state[:, :, :channels]


def fused_backward(
    grad_y: Tensor,
    grad_last_state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    *,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of u, delta, A, B, C, D, delta_bias and initial_state; None for what is None."""
    channels = u.shape[-1]
    padding = -channels % LANES
    padded = _padded(u, delta, A, B, C, D, delta_bias, initial_state)
    _, _, kept = _forward(padded, delta_softplus, keep=True)
    made = _backward(
        functional.pad(grad_y, (0, padding)),
        functional.pad(grad_last_state, (0, 0, 0, padding)),
        kept,
        padded,
        delta_softplus,
    )
    return (
        made["u"][..., :channels],
        made["delta"][..., :channels],
        made["rates"].sum(1).transpose(1, 2)[:, :channels],
        made["B"].sum(0),
        made["C"].sum(0),
        None if D is None else made["skip"].sum(1)[:, :channels],
        None if delta_bias is None else made["bias"].sum(1)[:, :channels],
        made["state"].transpose(2, 3)[:, :, :channels],
    )


class _Tensors(NamedTuple):
    """What the kernels take, in whole vectors of channels."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    delta_bias: Tensor
    initial_state: Tensor


def _padded(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor,
) -> _Tensors:
    """The tensors with as many channels as whole vectors have, zeros for what is None."""
    if u.device.type != "cpu" or u.dtype != torch.float32:
        raise ValueError(f"u is {u.dtype} on {u.device}; this scan takes torch.float32 on the CPU")
    D = u.new_zeros(A.shape[:2]) if D is None else D
    delta_bias = u.new_zeros(A.shape[:2]) if delta_bias is None else delta_bias
    padding = -u.shape[-1] % LANES
    if padding:
        u, delta, D, delta_bias = (
            functional.pad(tensor, (0, padding)) for tensor in (u, delta, D, delta_bias)
        )
        A, initial_state = (
            functional.pad(tensor, (0, 0, 0, padding)) for tensor in (A, initial_state)
        )
    return _Tensors(u, delta, A, B, C, D, delta_bias, initial_state)


def _sizes(u: Tensor, A: Tensor, delta_softplus: bool) -> Sizes:
    (groups, clips, length, channels), states = u.shape, A.shape[-1]
    fewest, most = CHUNK_STEPS
    chunk, chunks = _cut(length, max(fewest, min(most, CHUNK_VECTORS // states)))
    clips_of_task, parts = _cut(clips, math.ceil(clips / PARTS))
    vectors_of_task, blocks = _cut(channels // LANES, TASK_CHANNELS // LANES)
    return Sizes(
        groups=groups,
        clips=clips,
        length=length,
        channels=channels,
        states=states,
        chunk=chunk,
        chunks=chunks,
        clips_of_task=clips_of_task,
        parts=parts,
        channels_of_task=vectors_of_task * LANES,
        blocks=blocks,
        softplus=delta_softplus,
    )


def _cut(total: int, largest: int) -> tuple[int, int]:
    """The size that cuts `total` into as few parts of at most `largest` as can be, and how many."""
    size = math.ceil(total / math.ceil(total / largest))
    return size, math.ceil(total / size)


def _flat(tensor: Tensor) -> Any:
    """What a kernel takes: the elements in order; shared, not copied, where they lie so."""
    return tensor.detach().contiguous().view(-1).numpy()


def _inputs(tensors: _Tensors) -> Inputs:
    u, delta, A, B, C, D, delta_bias, _ = tensors
    rates = A.detach().transpose(1, 2) * math.log2(math.e)
    return Inputs(*(_flat(tensor) for tensor in (u, delta, rates, B, C, D, delta_bias)))


def _scratch(sizes: Sizes, *, backward: bool) -> Scratch:
    chunk = sizes.chunk if backward else 0
    vectors = Scratch(
        state=sizes.states,
        rates=sizes.states,
        states=(chunk + 1) * sizes.states,
        decays=chunk * sizes.states,
        delta=sizes.chunk,
        slope=chunk,
        B=chunk * sizes.states,
        C=chunk * sizes.states,
    )
    memory = torch.empty(sum(vectors) * LANES, dtype=torch.float32)
    parts = torch.split(memory, [count * LANES for count in vectors])
    return Scratch(*(part.numpy() for part in parts))


def _forward(
    tensors: _Tensors, delta_softplus: bool, *, keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the last state, and if told to keep them the states that enter the chunks."""
    u, A = tensors.u, tensors.A
    sizes, inputs = _sizes(u, A, delta_softplus), _inputs(tensors)
    y = torch.empty(u.shape, dtype=u.dtype)
    state = torch.empty(*u.shape[:2], *A.shape[:0:-1], dtype=u.dtype)
    state.copy_(tensors.initial_state.transpose(2, 3))
    kept = torch.empty(state.numel() * sizes.chunks if keep else 0, dtype=u.dtype)
    outputs = Outputs(*(_flat(tensor) for tensor in (y, state, kept)))

    def run(first: int, stop: int) -> None:
        scratch = _scratch(sizes, backward=False)
        scan_kernels.forward_tasks(inputs, outputs, sizes, scratch, first, stop)

    run_tasks(run, sizes.groups * sizes.parts * sizes.blocks)
    return y, state.transpose(2, 3), kept


def _backward(
    grad_y: Tensor, grad_last_state: Tensor, kept: Tensor, tensors: _Tensors, delta_softplus: bool
) -> dict[str, Tensor]:
    """The fields of `Gradients`."""
    u, A, B = tensors.u, tensors.A, tensors.B
    sizes, inputs = _sizes(u, A, delta_softplus), _inputs(tensors)
    groups, clips = u.shape[:2]
    shapes = {
        "u": u.shape,
        "delta": u.shape,
        "rates": (groups, sizes.parts, sizes.states, sizes.channels),
        "B": (sizes.blocks, *B.shape),
        "C": (sizes.blocks, *B.shape),
        "skip": (groups, sizes.parts, sizes.channels),
        "bias": (groups, sizes.parts, sizes.channels),
        "state": (groups, clips, sizes.states, sizes.channels),
    }
    made = {name: torch.empty(shape, dtype=u.dtype) for name, shape in shapes.items()}
    made["state"].copy_(grad_last_state.transpose(2, 3))
    gradients = Gradients(**{name: _flat(tensor) for name, tensor in made.items()})
    flat_grad_y, flat_kept = _flat(grad_y), _flat(kept)

    def run(first: int, stop: int) -> None:
        scratch = _scratch(sizes, backward=True)
        scan_backward_kernels.backward_tasks(
            inputs, flat_kept, flat_grad_y, gradients, sizes, scratch, first, stop
        )

    run_tasks(run, sizes.groups * sizes.parts * sizes.blocks)
    return made
