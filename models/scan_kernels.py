"""The selective scan as Numba kernels: sixteen channels at a time, states never leave the cache.

Arrays are flat; the orders below say what is where. A task is one group, some clips and a block of
channels. Tasks share no output, so that sums come out the same for any number of threads.

Axes: G groups, B clips, L sequence length, D channels (a multiple of sixteen), S states, V blocks
of channels, P parts of the clips, K chunks of the sequence.
"""

from typing import NamedTuple

from reelscan.models.simd_lanes import (
    LANES,
    Array,
    Lanes,
    constant,
    exp2,
    inlined,
    kernel,
    load,
    sigmoid,
    softplus,
    spread,
    store,
    total,
)


class Sizes(NamedTuple):
    """How the axes are cut."""

    clips: int
    length: int
    channels: int
    states: int
    chunk: int
    """Steps between states that are kept for the backward pass."""
    clips_of_task: int
    channels_of_task: int
    softplus: bool

    @property
    def parts(self) -> int:
        return -(-self.clips // self.clips_of_task)

    @property
    def blocks(self) -> int:
        return -(-self.channels // self.channels_of_task)

    @property
    def chunks(self) -> int:
        return -(-self.length // self.chunk)

    @property
    def forward_scratch(self) -> int:
        return self.states * self.channels_of_task

    @property
    def backward_scratch(self) -> int:
        return 2 * self.forward_scratch + LANES * self.chunk * (4 * self.states + 1)


class Inputs(NamedTuple):
    """What both directions read."""

    u: Array
    """[G, B, L, D], as delta"""
    delta: Array
    rates: Array
    """A times log2(e), [G, S, D]"""
    B: Array
    """[G, B, L, S], as C"""
    C: Array
    skip: Array
    """[G, D], as bias"""
    bias: Array
    states: Array
    """Forward: that before the sequence, [G, B, S, D]. Backward: those kept, [G, B, K, D S]."""


class Gradients(NamedTuple):
    """What the backward pass writes; sums over channels and clips are left to the caller."""

    u: Array
    delta: Array
    rates: Array
    """Of A, [G, P, S, D]"""
    B: Array
    """[V, G, B, L, S], as C"""
    C: Array
    skip: Array
    """[G, P, D], as bias"""
    bias: Array
    state: Array
    """Of the state before the sequence, [G, B, S, D]"""


@kernel
def forward_tasks(
    inputs: Inputs,
    sizes: Sizes,
    y: Array,
    last_state: Array,
    kept: Array,
    scratch: Array,
    first: int,
    stop: int,
) -> None:
    """Run tasks `first` to `stop`; `kept` may be empty, else the states entering chunks go there."""
    for task in range(first, stop):
        block, rest = task % sizes.blocks, task // sizes.blocks
