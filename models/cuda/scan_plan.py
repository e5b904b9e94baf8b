"""How a scan is cut into blocks and threads on a GPU.

Axes: G groups, B clips, L sequence length, D channels, S states.
"""

import math
from dataclasses import dataclass
from functools import cache

CHECKPOINT_STEPS = 16
"""Steps between states that the backward pass starts from again."""
_WARPS_WANTED = 15
"""Warps a multiprocessor needs to keep its exponential units busy."""
_CHUNK_STEPS_LEAST = 128
"""Shorter chunks cost more in hand-over than they give."""


@dataclass(frozen=True, kw_only=True)
class ForwardPlan:
    """How the forward scan is cut."""

    lanes: int
    """Threads that share the states of their channels."""
    per_thread: int
    """Channels of a thread."""
    channels: int
    """Channels of a block."""
    steps: int
    """Steps of a tile."""
    chunks: int
    """Parts of the sequence that are scanned at once."""
    chunk_steps: int
    """Steps of each part but the last, a multiple of 64."""
    fma_exponentials: int = 0
    """Of a thread's states, those whose exponentials run on the multiply-add pipes."""
    unrolled: int = 1
    """Groups of steps that are written out one after another."""
    resident: int = 1
    """Blocks that must fit on a multiprocessor at once, which bounds their registers."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.channels // self.per_thread * self.lanes


@dataclass(frozen=True, kw_only=True)
class BackwardPlan:
    """How the backward scan is cut."""

    warps: int
    """Warps of a block."""
    per_thread: int
    """Channels of a thread."""
    chunks: int
    chunk_steps: int
    fma_exponentials: int = 0
    resident: int = 1
    """Blocks that must fit on a multiprocessor at once, which bounds their registers."""

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return 8 * self.warps * self.per_thread


def padded_states(states: int) -> int:
    """States in memory: a multiple of four."""
    return -(-states // 4) * 4


@cache
def plan_forward(
    *, sequences: int, length: int, channels: int, states: int, multiprocessors: int
) -> ForwardPlan:
    """For G x B = `sequences` sequences scanned in one launch; cuts as measured on an H100."""
    warps = sequences * channels / 32 / multiprocessors
    lanes = 2
    while lanes < 8 and warps * lanes < _WARPS_WANTED / 2 and _lanes_fit(2 * lanes, states):
        lanes *= 2
    chunks, chunk_steps = _chunks(length, warps * lanes)
    if chunks > 1:
        lanes = 2
        chunks, chunk_steps = _chunks(length, warps * lanes)
    many = warps * lanes >= _WARPS_WANTED
    block_channels, steps = {2: (64 if many else 32, 16), 4: (16, 16), 8: (16, 32)}[lanes]
    blocks = sequences * chunks * -(-channels // block_channels)
    crowded = lanes == 2 and many and states <= 16 and _four_pay(blocks / multiprocessors)
    return ForwardPlan(
        lanes=lanes,
        per_thread=1,
        channels=block_channels,
        steps=steps,
        chunks=chunks,
        chunk_steps=chunk_steps,
        unrolled=2 if lanes == 2 and states <= 16 else 1,
        fma_exponentials=1 if lanes == 2 and many and states == 16 and not crowded else 0,
        resident=4 if crowded else 1,
    )


@cache
def plan_backward(
    *, sequences: int, length: int, channels: int, states: int, multiprocessors: int
) -> BackwardPlan:
    """For G x B = `sequences` sequences scanned in one launch."""
    per_thread = 2 if states <= 32 else 1
    warps = sequences * channels / (8 * per_thread) / multiprocessors
    chunks, chunk_steps = _chunks(length, warps)
    return BackwardPlan(
        warps=4 if channels > 32 and states <= 16 else 2,
        per_thread=per_thread,
        chunks=chunks,
        chunk_steps=chunk_steps,
        resident=2 if states <= 16 else 1,
    )


def _four_pay(blocks: float) -> bool:
    """Whether four blocks at a time on a multiprocessor beat three, which need no spilling.

    Four work a fifth faster together, but may leave more of the last round idle.
    """
    return math.ceil(blocks / 4) * 4 * 0.83 < math.ceil(blocks / 3) * 3


def _lanes_fit(lanes: int, states: int) -> bool:
    return -(-states // lanes) * lanes <= padded_states(states)


def _chunks(length: int, warps: float) -> tuple[int, int]:
    """Chunks, and their steps, so that `warps` of a multiprocessor become enough."""
    wanted = 1 if warps >= _WARPS_WANTED / 2 else round(_WARPS_WANTED / warps)
    steps = max(_CHUNK_STEPS_LEAST, -(-length // wanted))
    steps = -(-steps // 64) * 64
    return -(-length // steps), steps
