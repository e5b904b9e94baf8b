"""How steps and runs went, as told to the caller, the metrics file and the report."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from reelscan.pretrain.checkpoint_files import RunState
from reelscan.pretrain.step_clock import Pace
from reelscan.pretrain.train_step import StepOutcome


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """How a step went; given to `on_step` in the first process."""

    step: int
    """Steps done, this one included."""
    total_steps: int
    losses: Mapping[str, float]
    """By `train_step.LOSS_NAMES`; 0 for a loss that is off."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    temperature: float
    skipped_steps: int
    """Steps so far whose loss was not finite or a spike, so that nothing was updated."""
    roll_backs: int
    """Times so far that the run went back to a checkpoint."""
    clips_per_second: float
    """Of all processes together, like all that follows over about the last 20 steps."""
    data_wait_fraction: float
    """Part of the time spent waiting for the next batch."""
    seconds_left: float


@dataclass(frozen=True, kw_only=True)
class PretrainReport:
    """How a run ended."""

    steps: int
    """Steps done, those before a resume included."""
    total_steps: int
    interrupted: bool
    """Stopped on request; resume to go on."""
    skipped_steps: int
    """Steps whose loss was not finite or a spike, so that nothing was updated."""
    roll_backs: int
    """Times that the run went back to a checkpoint."""
    unreadable_samples: int
    """Samples this process left out, from the shards it has read, since it started."""
    losses: Mapping[str, float]
    """Of the last step; empty if none was left to do."""
    seconds: float
    """Of this part of the run."""
    data_wait_seconds: float
    """Of these, spent waiting for the next batch."""
    checkpoint: Path
    """The newest one."""
    model: Path | None
    """The model directory; None if interrupted."""


def metrics_of(
    outcome: StepOutcome, state: RunState, pace: Pace, *, mfu: float | None, device: torch.device
) -> dict[str, float]:
    """A line of the metrics file; a step that was skipped has no losses."""
    measured = {
        **outcome.losses,
        "gradient_norm": outcome.gradient_norm,
        **{f"gradient_norm_{part}": norm for part, norm in outcome.gradient_norms.items()},
        "temperature": outcome.temperature,
    }
    line = {
        **(measured if outcome.applied else {}),
        "learning_rate": outcome.learning_rate,
        "skipped_steps": state.skipped_steps,
        "roll_backs": state.roll_backs,
        "clips_per_second": pace.clips_per_second,
        "data_wait_fraction": pace.data_wait_fraction,
        "seconds_left": pace.seconds_left,
    }
    if mfu is not None:
        line["mfu"] = mfu
    if device.type == "cuda":
        line["gpu_memory_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return line


def step_report(
    outcome: StepOutcome, state: RunState, pace: Pace, *, total_steps: int
) -> StepReport:
    return StepReport(
        step=state.step,
        total_steps=total_steps,
        losses=outcome.losses,
        learning_rate=outcome.learning_rate,
        gradient_norm=outcome.gradient_norm,
        temperature=outcome.temperature,
        skipped_steps=state.skipped_steps,
        roll_backs=state.roll_backs,
        clips_per_second=pace.clips_per_second,
        data_wait_fraction=pace.data_wait_fraction,
        seconds_left=pace.seconds_left,
    )
