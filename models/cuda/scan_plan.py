"""How a scan is cut into blocks and threads on a GPU.

Axes: G groups, B clips, L sequence length, D channels, S states.
"""

from dataclasses import dataclass
from functools import cache

TILE_STEPS = 16
"""Steps of a tile."""
CHECKPOINT_STEPS = TILE_STEPS
"""Steps between states that the backward pass starts from again."""
_WARPS_WANTED = 15
"""Warps a multiprocessor needs to keep its exponential units busy."""
_SLICE_STEPS = 1024
"""Of a slice: enough to be worth handing its state on."""
_CHUNK_STEPS_LEAST = 128
"""Shorter chunks cost more in hand-over than they give."""


@dataclass(frozen=True, kw_only=True)
class ForwardPlan:
    """How the forward scan is cut."""

    lanes: int
    """Threads that share the states of their channels."""
    channels: int
    """Channels of a block."""
    chunks: int
    """Parts of the sequence that are scanned at once."""
    chunk_steps: int
    """Steps of each part but the last, a multiple of 64."""
    fma_exponentials: int = 0
    """Of a channel's exponentials, those that run on the multiply-add pipes."""
    unrolled: int = 1
    """Groups of steps that are written out one after another."""
    resident: int = 1
    """Blocks that must fit on a multiprocessor at once, which bounds their registers."""
    slices: int = 1
    """Parts of a sequence that blocks take one after another, where two directions meet."""

    @property
    def threads(self) -> int:
        """Threads of a block."""
        return self.channels * self.lanes


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
    parts: int = 1
    """Parts in which a tile's states are computed again."""

    @property
    def channels(self) -> int:
        """Channels of a block."""
        return 8 * self.warps * self.per_thread


def padded_states(states: int) -> int:
    """States in memory: a multiple of four."""
    return -(-states // 4) * 4


@cache
def plan_forward(
    *,
    sequences: int,
    length: int,
    channels: int,
    states: int,
    multiprocessors: int,
    meets: bool = False,
) -> ForwardPlan:
    """For G x B = `sequences` sequences scanned in one launch; cuts as measured on an H100.

    `meets`: two directions run in it and meet halfway.
    """
    warps = sequences * channels / 32 / multiprocessors
    lanes = 2
    while lanes < 8 and warps * lanes < _WARPS_WANTED / 2 and _lanes_fit(2 * lanes, states):
        lanes *= 2
    chunks, chunk_steps = _chunks(length, _chunks_wanted(warps * lanes))
    if chunks > 1:
        lanes = 2
        # As many blocks on all multiprocessors: three.
        even = int(3 * multiprocessors / sequences / (channels / 64))
        chunks, chunk_steps = _chunks(length, max(1, even))
    small = lanes == 2 and states <= 16
    busy = warps * lanes * chunks >= _WARPS_WANTED
    blocks = sequences * chunks * -(-channels // 64)
    sliced = meets and small and chunks == 1 and not busy and length >= 2 * _SLICE_STEPS
    return ForwardPlan(
        lanes=lanes,
        channels={2: 32 if sliced else 64, 4: 16, 8: 16}[lanes],
        chunks=chunks,
        chunk_steps=chunk_steps,
        unrolled=(8 if meets else 4) if small else 2 if lanes == 4 and states <= 16 else 1,
        resident=4 if sliced or (small and busy and blocks > 3 * multiprocessors) else 1,
        slices=length // _SLICE_STEPS if sliced else 1,
    )


@cache
def plan_backward(
    *, sequences: int, length: int, channels: int, states: int, multiprocessors: int
) -> BackwardPlan:
    """For G x B = `sequences` sequences scanned in one launch."""
    per_thread = 2 if states <= 32 else 1
    warps = sequences * channels / (8 * per_thread) / multiprocessors
    chunks, chunk_steps = _chunks(length, _chunks_wanted(warps))
    return BackwardPlan(
        warps=4 if channels > 32 and states <= 16 else 2,
        per_thread=per_thread,
        chunks=chunks,
        chunk_steps=chunk_steps,
        resident=4 if states <= 16 else 1,
        parts=2 if states <= 16 else 1,
    )


def _lanes_fit(lanes: int, states: int) -> bool:
    return -(-states // lanes) * lanes <= padded_states(states)


def _chunks(length: int, wanted: int) -> tuple[int, int]:
    """At most so many chunks, and their steps."""
    steps = max(_CHUNK_STEPS_LEAST, -(-length // wanted))
    steps = -(-steps // 64) * 64
    return -(-length // steps), steps


def _chunks_wanted(warps: float) -> int:
    """So many that `warps` of a multiprocessor become enough."""
    return 1 if warps >= _WARPS_WANTED / 2 else round(_WARPS_WANTED / warps)
