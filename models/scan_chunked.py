"""The selective scan in chunks of the sequence: plain PyTorch, made for a few CPU threads.

A step of the sequence costs one fused multiply-add; all else is done for a whole chunk at once,
in buffers that are reused and stay in a processor's cache. The backward pass recomputes the states
of a chunk from the one that entered it, so nothing of size L x D x S is ever held.

Axes: G independent groups, B clips, L sequence length, D inner channels, S states; within a buffer
n steps of a chunk and b clips of a block: [n, G, b, S, D].
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

CPU_BUFFER_ELEMENTS = 500_000
"""Elements of a buffer on a CPU: 2 MB in float32, found by measuring."""
ACCELERATOR_BUFFER_ELEMENTS = 32_000_000
"""Elements of a buffer elsewhere, where few large calls count for more than a cache."""
CHUNK_STEPS = (8, 64)
"""Fewest and most steps of a chunk."""


def chunked_forward(
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
    """The same function of the same tensors as `reference_scan`."""
    scan = _Scan.of(u, delta, A, B, C, D, delta_bias, delta_softplus)
    return _forward(scan, initial_state)


def chunked_backward(
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
    scan = _Scan.of(u, delta, A, B, C, D, delta_bias, delta_softplus)
    passed = _BackwardPass(scan, grad_y)
    passed.run(initial_state, grad_last_state)
    return (
        passed.u,
        passed.delta,
        passed.rates_sum.sum(1).transpose(1, 2),
        passed.B,
        passed.C,
        None if scan.D is None else passed.D_sum.sum(1),
        None if scan.delta_bias is None else passed.bias_sum.sum(1),
        passed.initial_state,
    )


def _cut(u: Tensor, A: Tensor) -> tuple[int, int]:
    """Clips of a block, steps of a chunk: as many clips as the shortest chunk leaves room for."""
    on_cpu = u.device.type == "cpu"
    limit = CPU_BUFFER_ELEMENTS if on_cpu else ACCELERATOR_BUFFER_ELEMENTS
    fewest, most = CHUNK_STEPS
    block = _even(u.shape[1], max(1, limit // (fewest * A.numel())))
    chunk = _even(u.shape[2], min(most, max(fewest, limit // (block * A.numel()))))
    return block, chunk


def _even(total: int, largest: int) -> int:
    """The size that cuts `total` into as few parts of at most `largest` as can be, about equal."""
    return math.ceil(total / math.ceil(total / largest))


@dataclass(frozen=True, kw_only=True)
class _Window:
    """Some clips, and some steps of their sequence."""

    clips: slice
    steps: slice

    def view(self, tensor: Tensor) -> Tensor:
        """The window of [G, B, L, X] as [n, G, b, X], not copied."""
        return tensor[:, self.clips, self.steps].permute(2, 0, 1, 3)

    def store(self, values: Tensor, tensor: Tensor) -> None:
        """Write [n, G, b, X] to the window of [G, B, L, X]."""
        tensor[:, self.clips, self.steps] = values.permute(1, 2, 0, 3)

    @property
    def size(self) -> tuple[int, int]:
        return self.steps.stop - self.steps.start, self.clips.stop - self.clips.start


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """The inputs of one call, and how the work is cut."""

    u: Tensor
    delta: Tensor
    B: Tensor
    C: Tensor
    D: Tensor | None
    delta_bias: Tensor | None
    delta_softplus: bool
    rates: Tensor
    """A as [G, 1, S, D]."""
    block: int
    """Clips worked on at a time."""
    chunk: int
    """Steps worked on at a time."""

    @classmethod
    def of(
        cls,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> "_Scan":
        block, chunk = _cut(u, A)
        return cls(
            u=u,
            delta=delta,
            B=B,
            C=C,
            D=None if D is None else D.unsqueeze(1),
            delta_bias=None if delta_bias is None else delta_bias.unsqueeze(1),
            delta_softplus=delta_softplus,
            rates=A.transpose(1, 2).unsqueeze(1).contiguous(),
            block=block,
            chunk=chunk,
        )

    def blocks(self) -> Iterator[slice]:
        clips = self.u.shape[1]
        return (slice(i, min(i + self.block, clips)) for i in range(0, clips, self.block))

    def windows(self, clips: slice) -> list[_Window]:
        length = self.u.shape[2]
        starts = range(0, length, self.chunk)
        return [_Window(clips=clips, steps=slice(i, min(i + self.chunk, length))) for i in starts]

    def buffer(self, steps: int) -> "_Buffer":
        groups, _, states, channels = self.rates.shape
        elements = steps * self.block * self.rates.numel()
        memory = torch.empty(elements, dtype=self.u.dtype, device=self.u.device)
        return _Buffer(memory=memory, groups=groups, tail=(states, channels))

    def biased(self, window: _Window) -> Tensor:
        """The time steps of a window before softplus, [n, G, b, D]."""
        delta = window.view(self.delta)
        return delta if self.delta_bias is None else delta + self.delta_bias

    def time_steps(self, window: _Window) -> Tensor:
        biased = self.biased(window)
        return functional.softplus(biased) if self.delta_softplus else biased


@dataclass(frozen=True, kw_only=True)
class _Buffer:
    """Memory handed out as [n, G, b, S, D] in the size that a window needs."""

    memory: Tensor
    groups: int
    tail: tuple[int, int]

    def take(self, steps: int, clips: int) -> Tensor:
        shape = (steps, self.groups, clips, *self.tail)
        return self.memory[: math.prod(shape)].view(shape)


def _forward(scan: _Scan, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """y and the last state."""
    y = torch.empty_like(scan.u, memory_format=torch.contiguous_format)
    last_state = torch.empty_like(initial_state, memory_format=torch.contiguous_format)
    for clips in scan.blocks():
        carried = initial_state[:, clips].transpose(-1, -2)
        for window, state in _states(scan, clips, carried):
            out = _row_times(window.view(scan.C), state[1:])
            window.store(out if scan.D is None else out.addcmul_(window.view(scan.u), scan.D), y)
            carried = state[-1]
        last_state[:, clips] = carried.transpose(-1, -2)
    return y, last_state


def _states(scan: _Scan, clips: slice, carried: Tensor) -> Iterator[tuple[_Window, Tensor]]:
    """Each window of the clips and its states [n + 1, ...], from the one that enters it on.

    `carried` [G, b, S, D] enters the first. The states are overwritten by the next.
    """
    log2_rates = scan.rates * math.log2(math.e)
    decays, states = scan.buffer(scan.chunk), scan.buffer(scan.chunk + 1)
    for window in scan.windows(clips):
        steps, count = window.size
        decay, state = decays.take(steps, count), states.take(steps + 1, count)
        state[0].copy_(carried)
        delta = scan.time_steps(window)
        entry = delta * window.view(scan.u)
        _run_states(state, decay, delta, entry, window.view(scan.B), log2_rates)
        yield window, state
        carried = state[-1]


def _run_states(
    state: Tensor, decay: Tensor, delta: Tensor, entry: Tensor, B: Tensor, log2_rates: Tensor
) -> None:
    """Fill decay [n, ...] and state[1:] of [n + 1, ...]; state[0] is the state before."""
    torch.mul(delta.unsqueeze(-2), log2_rates, out=decay)
    decay.exp2_()  # three times as quick as exp on a CPU, and as exact
    torch.mul(entry.unsqueeze(-2), B.unsqueeze(-1), out=state[1:])
    rows = state.unbind(0)
    for step, rate in enumerate(decay.unbind(0)):
        rows[step + 1].addcmul_(rate, rows[step])


def _run_adjoints(adjoint: Tensor, decay: Tensor) -> None:
    """Add to each step's adjoint what the later steps pass back."""
    rows, rates = adjoint.unbind(0), decay.unbind(0)
    for step in range(len(rows) - 1, 0, -1):
        rows[step - 1].addcmul_(rates[step], rows[step])


def _row_times(row: Tensor, matrix: Tensor) -> Tensor:
    """Row vectors [..., K] times matrices [..., K, M] -> [..., M]."""
    product = torch.bmm(row.reshape(-1, 1, row.shape[-1]), matrix.flatten(0, -3))
    return product.view(*matrix.shape[:-2], matrix.shape[-1])


class _BackwardPass:
    """The gradients of one call, filled window by window.

    Sums over clips and steps are kept apart for the clips of a block until the end: reducing two
    axes that are not adjacent is many times slower than reducing the first.
    """

    def __init__(self, scan: _Scan, grad_y: Tensor) -> None:
        groups, _, states, channels = scan.rates.shape
        self.scan, self.grad_y = scan, grad_y
        self.log2_rates = scan.rates * math.log2(math.e)
        self.decays, self.adjoints = scan.buffer(scan.chunk), scan.buffer(scan.chunk)
        self.states, self.carries = scan.buffer(scan.chunk + 1), scan.buffer(1)
        self.u, self.delta, self.B, self.C, self.initial_state = (
            torch.empty(shape, dtype=grad_y.dtype, device=grad_y.device)
            for shape in (
                *(scan.u.shape, scan.u.shape, scan.B.shape, scan.B.shape),
                (groups, scan.u.shape[1], channels, states),
            )
        )
        self.rates_sum = grad_y.new_zeros(groups, scan.block, states, channels)
        self.D_sum = grad_y.new_zeros(groups, scan.block, channels)
        self.bias_sum = grad_y.new_zeros(groups, scan.block, channels)

    def run(self, initial_state: Tensor, grad_last_state: Tensor) -> None:
        for clips in self.scan.blocks():
            entering = [initial_state[:, clips].transpose(-1, -2)]
            for _, states in _states(self.scan, clips, entering[0]):
                entering.append(states[-1].clone())
            carried = self.carries.take(1, clips.stop - clips.start)[0]
            carried.copy_(grad_last_state[:, clips].transpose(-1, -2))
            for index, window in reversed(list(enumerate(self.scan.windows(clips)))):
                self._window(window, entering[index], carried)
            self.initial_state[:, clips] = carried.transpose(-1, -2)

    def _window(self, window: _Window, entering: Tensor, carried: Tensor) -> None:
        """Recompute the window's states, then run its adjoints; `carried` goes in and out."""
        scan, (steps, clips) = self.scan, window.size
        decay, adjoint = self.decays.take(steps, clips), self.adjoints.take(steps, clips)
        state = self.states.take(steps + 1, clips)
        state[0].copy_(entering)
        delta = scan.time_steps(window)
        entry = delta * window.view(scan.u)
        B, C, dy = (window.view(tensor) for tensor in (scan.B, scan.C, self.grad_y))
        _run_states(state, decay, delta, entry, B, self.log2_rates)
        torch.mul(dy.unsqueeze(-2), C.unsqueeze(-1), out=adjoint)
        adjoint[-1].add_(carried)
        _run_adjoints(adjoint, decay)
        torch.mul(decay[0], adjoint[0], out=carried)
        window.store(_row_times(dy, state[1:].transpose(-1, -2)), self.C)
        window.store(_row_times(entry, adjoint.transpose(-1, -2)), self.B)
        grad_entry = _row_times(B, adjoint)
        adjoint.mul_(decay).mul_(state[:-1])
        self._sequences(window, grad_entry, delta, exponent=adjoint, scratch=decay)

    def _sequences(
        self,
        window: _Window,
        grad_entry: Tensor,
        delta: Tensor,
        *,
        exponent: Tensor,
        scratch: Tensor,
    ) -> None:
        """From the gradients of delta u and of delta A (`exponent`) to those of the inputs."""
        scan, clips = self.scan, window.size[1]
        u, dy = window.view(scan.u), window.view(self.grad_y)
        grad_delta = torch.mul(exponent, scan.rates, out=scratch).sum(-2).addcmul_(grad_entry, u)
        exponent.mul_(delta.unsqueeze(-2))
        self.rates_sum[:, :clips] += torch.sum(exponent, 0, out=scratch[0])
        if scan.delta_softplus:
            grad_delta.mul_(torch.sigmoid(scan.biased(window)))
        window.store(grad_delta, self.delta)
        if scan.delta_bias is not None:
            self.bias_sum[:, :clips] += grad_delta.sum(0)
        grad_u = grad_entry.mul_(delta)
        if scan.D is not None:
            grad_u.addcmul_(dy, scan.D)
            self.D_sum[:, :clips] += (dy * u).sum(0)
        window.store(grad_u, self.u)
