"""How a step is spread over processes and memory, and when it is not to be trusted."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How a step is spread over processes, and over time to save memory."""

    sharding: Literal["replicated", "fully_sharded"] = "replicated"
    """Under torchrun: each process keeps all weights (DDP), or a part of them (FSDP2), which saves
    memory and costs traffic."""
    accumulate: int = 1
    """Parts, one after the other, in which a process computes its clips of a step. The contrastive
    loss still compares all of them, with the exact gradient, for one more forward pass; hard
    negatives of the matching loss come from the part."""
    recompute_fusion: bool = False
    """Compute the fusion layers again in the backward pass instead of keeping their activations.
    For the video encoder's blocks see model.vision.checkpointed_blocks."""

    def __post_init__(self) -> None:
        if self.sharding not in ("replicated", "fully_sharded"):
            raise ValueError(
                f"parallel.sharding is {self.sharding!r}; choose replicated or fully_sharded"
            )
        if self.accumulate < 1:
            raise ValueError(f"parallel.accumulate is {self.accumulate}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class GuardConfig:
    """When a step's update is left out, and what happens if that does not end."""

    spike_deviations: float | None = 10.0
    """A total loss so many standard deviations above the mean of the last applied steps is a spike:
    its step is skipped like one whose loss or gradient is not finite. None: never."""
    memory_steps: int = 100
    """Applied steps that mean and deviation are of; no step is a spike before there are as many."""
    saved_batches: int = 5
    """Skipped steps whose clips are saved in OUT/skipped, for `reelscan pretrain replay`; 0: none.
    Later ones are only counted."""
    max_in_a_row: int = 20
    """Steps skipped in a row after which training has diverged."""
    on_divergence: Literal["stop", "roll_back"] = "stop"
    """Stop with an error, or go back to the newest checkpoint and on from it with other clips."""
    max_roll_backs: int = 3
    """Times that the run goes back before it stops after all."""

    def __post_init__(self) -> None:
        spikes = self.spike_deviations
        if spikes is not None and not (math.isfinite(spikes) and spikes > 0):
            raise ValueError(f"guard.spike_deviations is {spikes}; give a number above 0, or None")
        for name, least in (("memory_steps", 2), ("max_in_a_row", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"guard.{name} is {getattr(self, name)}; give at least {least}")
        for name in ("saved_batches", "max_roll_backs"):
            if getattr(self, name) < 0:
                raise ValueError(f"guard.{name} is {getattr(self, name)}; give at least 0")
        if self.on_divergence not in ("stop", "roll_back"):
            raise ValueError(
                f"guard.on_divergence is {self.on_divergence!r}; choose stop or roll_back"
            )
