"""The selective-scan recurrence in chunks of the sequence, in plain PyTorch and made for few CPU threads.

Everything but one fused multiply-add a step is done for a whole chunk at once, in buffers that are
reused and sized for a processor's cache. The backward pass recomputes the states of a chunk from the state that
entered it, so nothing of size L x D x S is ever held.

Axes: G independent groups, B clips, L sequence length, D inner channels, S states, n steps of a chunk, b clips of
a block. Buffers are [n, G, b, S, D].
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

BUFFER_ELEMENTS = 500_000
"""Elements of one buffer: 2 MB in float32, where two or four of them stay in a processor's cache."""
CHUNK_STEPS = (8, 64)
"""Fewest and most steps of a chunk."""


def chunked_recurrence(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """The same function of the same tensors as `scan_reference.reference_recurrence`; once differentiable."""
    tensors = (u, delta, A, B, C, initial_state)
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        y, last_state = _ChunkedRecurrence.apply(*tensors)  # type: ignore[no-untyped-call]
        return y, last_state
    return _forward(*tensors, boundaries=None)


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """How the work is cut: clips of a block and steps of a chunk."""

    block: int
    chunk: int

    @classmethod
    def of(cls, u: Tensor, A: Tensor) -> "_Plan":
        per_clip = A.numel()
        fewest, most = CHUNK_STEPS
        block = min(u.shape[1], max(1, BUFFER_ELEMENTS // (fewest * per_clip)))
        chunk = min(most, max(fewest, BUFFER_ELEMENTS // (block * per_clip)), u.shape[2])
        return cls(block=block, chunk=chunk)

    def blocks(self, clips: int) -> Iterator[slice]:
        return (slice(i, min(i + self.block, clips)) for i in range(0, clips, self.block))

    def chunks(self, length: int) -> list[slice]:
        return [slice(i, min(i + self.chunk, length)) for i in range(0, length, self.chunk)]


class _Buffer:
    """Memory for [steps, G, b, S, D], handed out in the size that a block and a chunk need."""

    def __init__(self, plan: _Plan, A: Tensor, *, extra_steps: int = 0) -> None:
        groups, channels, states = A.shape
        self.tail = (states, channels)
        self.groups = groups
        elements = (plan.chunk + extra_steps) * plan.block * A.numel()
        self.memory = torch.empty(elements, dtype=A.dtype, device=A.device)

    def take(self, steps: int, clips: int) -> Tensor:
        shape = (steps, self.groups, clips, *self.tail)
        return self.memory[: math.prod(shape)].view(shape)


def _steps_first(tensor: Tensor, block: slice, chunk: slice) -> Tensor:
    """A window of [G, B, L, X] as [n, G, b, X], not copied."""
    return tensor[:, block, chunk].permute(2, 0, 1, 3)


def _fill_decay(decay: Tensor, delta: Tensor, log2_decay: Tensor) -> None:
    """decay = exp(delta A), through exp2, which is three times as quick as exp on a CPU."""
    torch.mul(delta.unsqueeze(-2), log2_decay, out=decay)
    decay.exp2_()


def _run_states(states: Tensor, decay: Tensor) -> None:
    """Turn states[1:] from what enters into the states; states[0] is the state before."""
    rows = states.unbind(0)
    for step, rate in enumerate(decay.unbind(0)):
        rows[step + 1].addcmul_(rate, rows[step])


def _row_times(row: Tensor, matrix: Tensor) -> Tensor:
    """Row vectors [..., K] times matrices [..., K, M] -> [..., M]."""
    product = torch.bmm(row.reshape(-1, 1, row.shape[-1]), matrix.flatten(0, -3))
    return product.view(*matrix.shape[:-2], matrix.shape[-1])


def _scaled_decay(A: Tensor) -> Tensor:
    """A [G, D, S] -> log2(e) A as [G, 1, S, D]."""
    return (A.transpose(1, 2) * math.log2(math.e)).unsqueeze(1).contiguous()


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    initial_state: Tensor,
    *,
    boundaries: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """y and the last state; writes the state that enters each chunk to `boundaries` [chunks, G, B, S, D]."""
    plan = _Plan.of(u, A)
    log2_decay = _scaled_decay(A)
    entry = delta * u
    y = torch.empty_like(u, memory_format=torch.contiguous_format)
    last_state = torch.empty_like(initial_state, memory_format=torch.contiguous_format)
    decays, states = _Buffer(plan, A), _Buffer(plan, A, extra_steps=1)
    for block in plan.blocks(u.shape[1]):
        carried = initial_state[:, block].transpose(-1, -2)
        for index, chunk in enumerate(plan.chunks(u.shape[2])):
            steps, clips = chunk.stop - chunk.start, block.stop - block.start
            decay, state = decays.take(steps, clips), states.take(steps + 1, clips)
            state[0].copy_(carried)
            if boundaries is not None:
                boundaries[index, :, block].copy_(state[0])
            _fill_decay(decay, _steps_first(delta, block, chunk), log2_decay)
            entering = _steps_first(entry, block, chunk).unsqueeze(-2)
            torch.mul(entering, _steps_first(B, block, chunk).unsqueeze(-1), out=state[1:])
            _run_states(state, decay)
            out = _row_times(_steps_first(C, block, chunk), state[1:])
            y[:, block, chunk] = out.permute(1, 2, 0, 3)
            carried = state[-1]
        last_state[:, block] = carried.transpose(-1, -2)
    return y, last_state


class _Gradients:
    """Gradients of one call, filled chunk by chunk."""

    def __init__(self, u: Tensor, A: Tensor, B: Tensor) -> None:
        self.entry = torch.empty_like(u, memory_format=torch.contiguous_format)
        self.delta = torch.empty_like(u, memory_format=torch.contiguous_format)
        self.B = torch.empty_like(B, memory_format=torch.contiguous_format)
        self.C = torch.empty_like(B, memory_format=torch.contiguous_format)
        self.A = torch.zeros_like(A.transpose(1, 2), memory_format=torch.contiguous_format)
        self.initial = torch.empty(
            u.shape[0], u.shape[1], *A.shape[1:], dtype=u.dtype, device=u.device
        )


def _backward(
    tensors: tuple[Tensor, ...], boundaries: Tensor, grad_y: Tensor, grad_last: Tensor
) -> _Gradients:
    u, delta, A, B, C = tensors
    plan = _Plan.of(u, A)
    log2_decay, rates = _scaled_decay(A), A.transpose(1, 2).unsqueeze(1).contiguous()
    entry = delta * u
    grads = _Gradients(u, A, B)
    decays, adjoints = _Buffer(plan, A), _Buffer(plan, A)
    states, carries = _Buffer(plan, A, extra_steps=1), _Buffer(plan, A)
    for block in plan.blocks(u.shape[1]):
        clips = block.stop - block.start
        carried = carries.take(1, clips)[0].copy_(grad_last[:, block].transpose(-1, -2))
        decay_sum = torch.zeros_like(carried)
        for index, chunk in reversed(list(enumerate(plan.chunks(u.shape[2])))):
            steps = chunk.stop - chunk.start
            decay, state = decays.take(steps, clips), states.take(steps + 1, clips)
            adjoint = adjoints.take(steps, clips)
            delta_, entry_, dy_ = (_steps_first(t, block, chunk) for t in (delta, entry, grad_y))
            B_, C_ = (_steps_first(t, block, chunk) for t in (B, C))
            state[0].copy_(boundaries[index, :, block])
            _fill_decay(decay, delta_, log2_decay)
            torch.mul(entry_.unsqueeze(-2), B_.unsqueeze(-1), out=state[1:])
            _run_states(state, decay)
            torch.mul(dy_.unsqueeze(-2), C_.unsqueeze(-1), out=adjoint)
            adjoint[-1].add_(carried)
            rows, drates = adjoint.unbind(0), decay.unbind(0)
            for s in range(steps - 1, 0, -1):
                rows[s - 1].addcmul_(drates[s], rows[s])
            torch.mul(decay[0], adjoint[0], out=carried)
            grads.C[:, block, chunk] = _row_times(dy_, state[1:].transpose(-1, -2)).permute(1, 2, 0, 3)
            grads.B[:, block, chunk] = _row_times(entry_, adjoint.transpose(-1, -2)).permute(1, 2, 0, 3)
            grads.entry[:, block, chunk] = _row_times(B_, adjoint).permute(1, 2, 0, 3)
            adjoint.mul_(decay).mul_(state[:-1])
            torch.mul(adjoint, rates, out=decay)
            grads.delta[:, block, chunk] = decay.sum(-2).permute(1, 2, 0, 3)
            adjoint.mul_(delta_.unsqueeze(-2))
            decay_sum.add_(torch.sum(adjoint, 0, out=decay[0]))
        grads.A += decay_sum.sum(1)
        grads.initial[:, block] = carried.transpose(-1, -2)
    grads.delta.addcmul_(grads.entry, u)
    grads.entry.mul_(delta)
    return grads


class _ChunkedRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, initial_state):
        plan = _Plan.of(u, A)
        boundaries = torch.empty(len(plan.chunks(u.shape[2])), A.shape[0], u.shape[1], A.shape[2], A.shape[1], dtype=u.dtype, device=u.device)
        y, last = _forward(u, delta, A, B, C, initial_state, boundaries=boundaries)
        ctx.save_for_backward(u, delta, A, B, C, boundaries)
        return y, last

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gy, gl):
        *t, boundaries = ctx.saved_tensors
        g = _backward(tuple(t), boundaries, gy, gl)
        return g.entry, g.delta, g.A.transpose(1, 2), g.B, g.C, g.initial
