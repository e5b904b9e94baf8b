"""The training loop: shards in; checkpoints, metrics, a report and a model directory out.

    OUT/settings.json                                    what the run was given
    OUT/checkpoints/step-N/                              what it can be resumed from
    OUT/skipped/                                         batches of steps that were skipped
    OUT/metrics.jsonl, OUT/tensorboard/, OUT/losses.png  how it went
    OUT/report.html                                      the same for people
    OUT/unreadable-RANK.jsonl                            what a process could not read, and why
    OUT/model/                                           the trained model, once finished

Everything random in a step, and its batch, follow from (seed, position, process): the position is
the number of batches taken, and a resumed run does what an uninterrupted one would have done.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import torch

from reelscan.models.atomic_file import write_atomically
from reelscan.models.flops import encoder_flops, peak_flops
from reelscan.models.model_directory import save_model
from reelscan.models.scan_backend import scanning_by
from reelscan.pretrain.checkpoint import CheckpointWriter, load_checkpoint
from reelscan.pretrain.checkpoint_files import (
    RunState,
    checkpoint_path,
    newest_checkpoint,
    read_state,
)
from reelscan.pretrain.distributed import (
    Processes,
    WaitingRoom,
    joined_processes,
    wait_for_all,
)
from reelscan.pretrain.held_out import HeldOut, measure_held_out
from reelscan.pretrain.loss_guard import highest_loss, remember
from reelscan.pretrain.loss_plot import has_losses, plot_losses
from reelscan.pretrain.parallel import whole_model
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.run_log import METRICS_FILE, RunLog
from reelscan.pretrain.run_report import write_report
from reelscan.pretrain.run_reports import PretrainReport, StepReport, metrics_of, step_report
from reelscan.pretrain.run_settings import check_same_settings, plain_settings
from reelscan.pretrain.run_setup import set_up
from reelscan.pretrain.shard_loader import Batch
from reelscan.pretrain.skipped_batch import SkippedStep, count_skipped, save_skipped
from reelscan.pretrain.step_clock import Pace, StepClock
from reelscan.pretrain.stop_request import stop_requests
from reelscan.pretrain.train_step import StepOutcome, TrainStep
from reelscan.pretrain.training_data import ClipSource, open_shards

CHECKPOINTS, MODEL, SKIPPED, SETTINGS = "checkpoints", "model", "skipped", "settings.json"
LOSS_PLOT, REPORT = "losses.png", "report.html"
UNREADABLE = "unreadable-{rank}.jsonl"


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row were skipped."""


def pretrain(
    config: PretrainConfig,
    out_dir: Path,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    source: ClipSource | None = None,
    held_out: HeldOut | None = None,
) -> PretrainReport:
    """Trains one stage; under torchrun in all processes together.

    `resume` goes on from the newest checkpoint in `out_dir`, if there is one. `should_stop` is
    asked after each step; without it, Ctrl-C, SIGTERM and SIGUSR1 stop the run. Either way a
    checkpoint is written first. `source` stands in for the configured shards. `held_out` measures
    the model every `run.held_out_every` steps and at the end, in the first process; give it in all.

    Raises ValueError for what does not fit together and for settings that differ from those of the
    run to be resumed, and `TrainingDivergedError`. Sets the seed of torch's global generators.
    """
    scan = None if config.run.scan == "auto" else config.run.scan
    with (
        joined_processes(config.run.device) as processes,
        stop_requests(should_stop) as stop,
        scanning_by(scan),
    ):
        if source is None:
            skip_list = Path(out_dir) / UNREADABLE.format(rank=processes.rank)
            source = open_shards(config, processes, skip_list=skip_list)
        run = _Run(config, Path(out_dir), processes, source, held_out)
        report = run.train(resume=resume, on_step=on_step, should_stop=stop)
        wait_for_all()
    return report


class _Run:
    """The parts of a run, and its loop."""

    def __init__(
        self,
        config: PretrainConfig,
        out_dir: Path,
        processes: Processes,
        source: ClipSource,
        held_out: HeldOut | None,
    ) -> None:
        self.config = config
        self.out_dir = out_dir
        self.processes = processes
        self.source = source
        self.held_out = held_out
        self.total_steps = config.steps or source.steps_in(config.epochs or 0)
        self.settings = plain_settings(config, processes=processes.count)
        self.setup = set_up(config, processes.device)
        self.objective = self.setup.objective
        self.take_step = TrainStep(
            self.objective, config=config, processes=processes, total_steps=self.total_steps
        )
        self.clips_per_step = config.data.batch_size * processes.count
        self.clock = StepClock(clips_per_step=self.clips_per_step)
        self.waiting_room = WaitingRoom()
        self.saved_step: int | None = None
        self.checkpoint_is_due = False

    def train(
        self,
        *,
        resume: bool,
        on_step: Callable[[StepReport], None] | None,
        should_stop: Callable[[], bool],
    ) -> PretrainReport:
        started = time.perf_counter()
        state = start = self._start(resume=resume)
        outcome: StepOutcome | None = None
        with (
            CheckpointWriter(
                self.out_dir / CHECKPOINTS, keep_last=self.config.run.keep_checkpoints
            ) as checkpoints,
            self._open_log(state.step) as log,
        ):
            for outcome, state, pace in self._steps(start, should_stop, checkpoints):
                measured = self._measure_held_out(state)
                if log is not None:
                    self._log(log, outcome, state, pace, measured)
                if on_step is not None and self.processes.is_first:
                    on_step(step_report(outcome, state, pace, total_steps=self.total_steps))
                if self._is_due(state.step, self.config.run.checkpoint_every):
                    self.checkpoint_is_due = True
                # Not amid skipped steps, which may end in going back to it.
                if self.checkpoint_is_due and outcome.applied:
                    self._save_checkpoint(checkpoints, state)
            self._save_checkpoint(checkpoints, state)
        interrupted = state.step < self.total_steps
        self._finish(state, interrupted=interrupted)
        return PretrainReport(
            steps=state.step,
            total_steps=self.total_steps,
            interrupted=interrupted,
            skipped_steps=state.skipped_steps,
            roll_backs=state.roll_backs,
            unreadable_samples=self.source.unreadable_samples,
            losses=outcome.losses if outcome else {},
            seconds=time.perf_counter() - started,
            data_wait_seconds=self.clock.waited_seconds,
            checkpoint=checkpoint_path(self.out_dir / CHECKPOINTS, state.step),
            model=None if interrupted else self.out_dir / MODEL,
        )

    def _start(self, *, resume: bool) -> RunState:
        """Where to begin: the newest checkpoint, loaded, or step 0."""
        newest = newest_checkpoint(self.out_dir / CHECKPOINTS)
        if newest is not None and not resume:
            raise ValueError(
                f"{self.out_dir} holds a run already ({newest.name}): resume it (--resume), or "
                "choose another folder"
            )
        if newest is not None:
            check_same_settings(read_state(newest).settings, self.settings)
            return self._load(newest)
        if self.processes.is_first:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            text = json.dumps(asdict(self.config), default=str, indent=2)
            write_atomically(self.out_dir / SETTINGS, text.encode("utf-8"))
        return RunState(step=0, settings=self.settings)

    def _load(self, checkpoint: Path) -> RunState:
        state = load_checkpoint(
            checkpoint, module=self.objective, optimizer=self.take_step.optimizer
        )
        self.saved_step = state.step
        return replace(state, settings=self.settings)

    def _steps(
        self,
        state: RunState,
        should_stop: Callable[[], bool],
        checkpoints: CheckpointWriter,
    ) -> Iterator[tuple[StepOutcome, RunState, Pace]]:
        """Trains until the end or until asked to stop. Raises `TrainingDivergedError`."""
        self.objective.model.train()
        batches = self.clock.timing(self.source.batches(state.position))
        skipped_in_a_row = 0
        while state.step < self.total_steps:
            batch = next(batches)
            outcome, state = self._step(batch, state, stop_requested=should_stop())
            pace = self.clock.step_done(
                steps_left=self.total_steps - state.step,
                flops=self.clips_per_step * self._flops_per_clip(batch.clips_uint8.shape[1]),
            )
            yield outcome, state, pace
            skipped_in_a_row = 0 if outcome.applied else skipped_in_a_row + 1
            if skipped_in_a_row >= self.config.guard.max_in_a_row:
                state = self._roll_back(state, checkpoints)
                skipped_in_a_row = 0
            if outcome.stop:
                return

    def _step(
        self, batch: Batch, state: RunState, *, stop_requested: bool
    ) -> tuple[StepOutcome, RunState]:
        guard = self.config.guard
        highest = highest_loss(
            state.recent_losses,
            deviations=guard.spike_deviations,
            memory_steps=guard.memory_steps,
        )
        outcome = self.take_step(
            self.setup.parts(batch),
            state.step,
            draw=state.position,
            highest_loss=highest,
            stop_requested=stop_requested,
        )
        recent = state.recent_losses
        if outcome.applied:
            recent = remember(recent, outcome.losses["total"], memory_steps=guard.memory_steps)
        else:
            self._keep(batch, state, outcome, highest)
        return outcome, replace(
            state,
            step=state.step + 1,
            position=state.position + 1,
            skipped_steps=state.skipped_steps + (not outcome.applied),
            recent_losses=recent,
        )

    def _keep(self, batch: Batch, state: RunState, outcome: StepOutcome, highest: float) -> None:
        """Saves the batch of a skipped step, if there are not too many of them."""
        folder = self.out_dir / SKIPPED
        # Counted by all before anyone writes.
        full = count_skipped(folder) >= self.config.guard.saved_batches
        wait_for_all()
        if not full:
            save_skipped(
                folder,
                batch,
                SkippedStep.of(
                    step=state.step,
                    position=state.position,
                    losses=outcome.losses,
                    gradient_norm=outcome.gradient_norm,
                    highest_loss=highest,
                ),
                process=self.processes.rank,
            )

    def _roll_back(self, state: RunState, checkpoints: CheckpointWriter) -> RunState:
        """The newest checkpoint's state, with other clips to come, or `TrainingDivergedError`."""
        guard = self.config.guard
        checkpoints.wait()
        newest = newest_checkpoint(self.out_dir / CHECKPOINTS)
        if (
            guard.on_divergence == "stop"
            or newest is None
            or state.roll_backs >= guard.max_roll_backs
        ):
            raise TrainingDivergedError(_divergence_message(state, guard.max_in_a_row))
        return replace(
            self._load(newest),
            position=state.position,
            skipped_steps=state.skipped_steps,
            roll_backs=state.roll_backs + 1,
        )

    def _flops_per_clip(self, frames: int) -> float:
        """Of the video encoder, forward and backward."""
        mask = self.config.mask
        hidden = mask.image_ratio if frames == 1 else mask.ratio
        return 3 * encoder_flops(
            self.config.model.vision,
            frames=frames,
            visible_fraction=1.0 if mask.kind == "none" else 1.0 - hidden,
        )

    def _is_due(self, steps_done: int, every: int) -> bool:
        return steps_done % every == 0 or steps_done == self.total_steps

    def _open_log(self, steps_done: int) -> AbstractContextManager[RunLog | None]:
        if not self.processes.is_first:
            return nullcontext()
        return RunLog(
            self.out_dir,
            steps_done=steps_done,
            tensorboard=self.config.run.tensorboard,
            wandb=self.config.run.wandb,
        )

    def _measure_held_out(self, state: RunState) -> dict[str, float]:
        if self.held_out is None or not self._is_due(state.step, self.config.run.held_out_every):
            return {}
        measured = measure_held_out(self.setup, self.held_out if self.processes.is_first else None)
        self.waiting_room.wait()
        self.clock.forget_pause()
        return measured

    def _log(
        self,
        log: RunLog,
        outcome: StepOutcome,
        state: RunState,
        pace: Pace,
        measured: Mapping[str, float],
    ) -> None:
        """A line of a step that is due; after a roll-back in place of what was undone."""
        log.drop_from(state.step - 1)
        if measured or self._is_due(state.step, self.config.run.log_every):
            peak = peak_flops(self.processes.device)
            mfu = pace.flops_per_second / (peak * self.processes.count) if peak else None
            line = metrics_of(outcome, state, pace, mfu=mfu, device=self.processes.device)
            log.write(state.step - 1, {**line, **measured})

    def _save_checkpoint(self, checkpoints: CheckpointWriter, state: RunState) -> None:
        if state.step != self.saved_step:
            checkpoints.save(self.objective, self.take_step.optimizer, state)
            self.saved_step = state.step
        self.checkpoint_is_due = False

    def _finish(self, state: RunState, *, interrupted: bool) -> None:
        if not interrupted:
            model = whole_model(self.objective)
        if not self.processes.is_first:
            return
        if not interrupted:
            save_model(model, self.setup.tokenizer, self.setup.preprocessing, self.out_dir / MODEL)
        metrics = self.out_dir / METRICS_FILE
        if has_losses(metrics):
            plot_losses(metrics, self.out_dir / LOSS_PLOT)
            write_report(
                metrics,
                self.out_dir / REPORT,
                title=f"pretraining: {self.out_dir.resolve().name}",
                facts=self._facts(state),
                settings=self.settings,
            )

    def _facts(self, state: RunState) -> dict[str, object]:
        cuda = self.processes.device.type == "cuda"
        name = torch.cuda.get_device_name(self.processes.device) if cuda else "CPU"
        return {
            "steps": f"{state.step} of {self.total_steps}",
            "clips a step": self.clips_per_step,
            "clips seen": state.step * self.clips_per_step,
            "steps skipped": state.skipped_steps,
            "roll-backs": state.roll_backs,
            "samples unreadable": self.source.unreadable_samples,
            "processes": f"{self.processes.count} x {name}",
        }


def _divergence_message(state: RunState, skipped: int) -> str:
    back = f" after {state.roll_backs} roll-backs" if state.roll_backs else ""
    return (
        f"the last {skipped} steps before step {state.step} had a loss or gradient that is not "
        f"finite, or a spike, and were skipped{back}; look at their batches with `reelscan "
        f"pretrain replay OUT/{SKIPPED}/...`, or start a new run with the newest checkpoint as "
        "initial_model and a lower learning_rate, with clip_gradient_norm, or with precision fp32"
    )
