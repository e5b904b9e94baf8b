"""A skipped step done again, to see what was wrong with it: the same clips, captions and draws.

The weights are those of a checkpoint. Nothing is learned or written.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from reelscan.models.plain_config import from_plain
from reelscan.pretrain.checkpoint import load_checkpoint
from reelscan.pretrain.checkpoint_files import newest_checkpoint
from reelscan.pretrain.distributed import Processes, choose_device
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.run_setup import set_up
from reelscan.pretrain.shard_loader import Batch, join_batches
from reelscan.pretrain.skipped_batch import SkippedStep, read_skipped
from reelscan.pretrain.train_step import TrainStep

Precision = Literal["fp32", "bf16", "bf16_weights"]

CHECKPOINTS, SETTINGS = "checkpoints", "settings.json"


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came out when a skipped step was done again."""

    skipped: SkippedStep
    """As it was measured in the run."""
    checkpoint: Path | None
    """Whose weights were taken; None: the weights that the run started from."""
    clips: int
    """Of all processes."""
    losses: Mapping[str, float]
    """By `train_step.LOSS_NAMES`."""
    gradient_norms: Mapping[str, float]
    """Of each encoder, and of the rest."""
    broken_gradients: tuple[str, ...]
    """Parameters whose gradient is not finite, in the order of the model."""


def replay_step(
    file: Path,
    *,
    checkpoint: Path | None = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    precision: Precision | None = None,
) -> Replay:
    """Does the step of a file `RUN/skipped/step-N-process-P.safetensors` again, of all processes.

    `checkpoint`: by default the newest of the run, or its start. `precision`: that of the run.
    One process computes what several did, part by part, with the contrastive loss over all; the
    matching loss keeps to the parts. Raises ValueError for files that do not fit.
    """
    skipped, batches = read_skipped(file)
    run = file.resolve().parent.parent
    whole = join_batches(batches)
    config = _in_one_process(_configuration(run), whole, parts=len(batches), precision=precision)
    alone = Processes(rank=0, count=1, device=choose_device(device))
    setup = set_up(config, alone.device)
    take_step = TrainStep(setup.objective, config=config, processes=alone, total_steps=1)
    checkpoint = checkpoint or newest_checkpoint(run / CHECKPOINTS)
    if checkpoint is not None:
        load_checkpoint(checkpoint, module=setup.objective)
    setup.objective.model.train()
    outcome = take_step(
        setup.parts(whole),
        0,
        draw=skipped.position,
        stop_requested=False,
        # Nothing is to be learned.
        highest_loss=-float("inf"),
    )
    return Replay(
        skipped=skipped,
        checkpoint=checkpoint,
        clips=len(whole.captions),
        losses=outcome.losses,
        gradient_norms=outcome.gradient_norms,
        broken_gradients=tuple(
            name
            for name, parameter in setup.objective.trained_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ),
    )


def _in_one_process(
    config: PretrainConfig, whole: Batch, *, parts: int, precision: Precision | None
) -> PretrainConfig:
    """The run's settings for the batches of so many processes one after the other."""
    run = config.run if precision is None else replace(config.run, precision=precision)
    if parts > 1 and run.precision == "bf16_weights":
        raise ValueError(
            "a step of several processes is replayed in parts, which precision bf16_weights does "
            "not take: give another precision"
        )
    parallel = replace(
        config.parallel, sharding="replicated", accumulate=parts * config.parallel.accumulate
    )
    return replace(
        config,
        run=run,
        data=replace(config.data, batch_size=len(whole.captions)),
        parallel=parallel,
    )


def _configuration(run: Path) -> PretrainConfig:
    path = run / SETTINGS
    if not path.is_file():
        raise ValueError(
            f"{run} holds no {SETTINGS}: leave the saved batch in the folder `skipped` of its run"
        )
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no json: {error}") from error
    return from_plain(PretrainConfig, values, where=SETTINGS)
