"""The training loop: shards in; checkpoints, metrics and a model directory out.

    OUT/settings.json                                    what the run was given
    OUT/checkpoints/step-N/                              what it can be resumed from
    OUT/metrics.jsonl, OUT/tensorboard/, OUT/losses.png  how it went
    OUT/unreadable-RANK.jsonl                            what a process could not read, and why
    OUT/model/                                           the trained model, once finished

Everything random in a step follows from (seed, step, process) and its batch from (seed, step): the
number of steps done is the position in the data, and a resumed run does what an uninterrupted one
would have done.
"""

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

import torch

from reelscan.models.atomic_file import write_atomically
from reelscan.models.encoder import check_fit
from reelscan.models.model_directory import save_model
from reelscan.models.preprocessing import Preprocessing
from reelscan.models.scan_backend import scanning_by
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextModel
from reelscan.pretrain.checkpoint import (
    RunState,
    checkpoint_path,
    is_complete,
    load_checkpoint,
    newest_checkpoint,
    read_state,
    save_checkpoint,
)
from reelscan.pretrain.clip_training import load_teacher
from reelscan.pretrain.distributed import Processes, joined_processes, wait_for_all
from reelscan.pretrain.initial_weights import load_initial_model, load_initial_text_encoder
from reelscan.pretrain.loss_plot import has_losses, plot_losses
from reelscan.pretrain.objective import Objective
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.run_log import METRICS_FILE, RunLog
from reelscan.pretrain.run_settings import check_same_settings, plain_settings
from reelscan.pretrain.step_clock import Pace, StepClock
from reelscan.pretrain.stop_request import stop_requests
from reelscan.pretrain.train_step import StepOutcome, TrainStep
from reelscan.pretrain.training_data import ClipSource, open_shards, to_training_batch

CHECKPOINTS, MODEL, LOSS_PLOT, SETTINGS = "checkpoints", "model", "losses.png", "settings.json"
UNREADABLE = "unreadable-{rank}.jsonl"


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """How a step went; given to `on_step` in the first process."""

    step: int
    """Steps done, this one included."""
    total_steps: int
    losses: Mapping[str, float]
    """total, alignment, contrastive, matching, masked_language; 0 for a loss that is off."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""
    temperature: float
    skipped_steps: int
    """Steps so far whose loss or gradient was not finite, so that nothing was updated."""
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
    """Steps whose loss or gradient was not finite, so that nothing was updated."""
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


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had no finite loss and gradient."""


def pretrain(
    config: PretrainConfig,
    out_dir: Path,
    *,
    resume: bool = False,
    on_step: Callable[[StepReport], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    source: ClipSource | None = None,
) -> PretrainReport:
    """Trains one stage; under torchrun in all processes together.

    `resume` goes on from the newest checkpoint in `out_dir`, if there is one. `should_stop` is
    asked after each step; without it, Ctrl-C and SIGTERM stop the run. Either way a checkpoint is
    written first. `source` stands in for the configured shards.

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
        run = _Run(config, Path(out_dir), processes, source)
        report = run.train(resume=resume, on_step=on_step, should_stop=stop)
        wait_for_all()
    return report


class _Run:
    """The parts of a run, and its loop."""

    def __init__(
        self, config: PretrainConfig, out_dir: Path, processes: Processes, source: ClipSource
    ) -> None:
        self.config = config
        self.out_dir = out_dir
        self.processes = processes
        self.source = source
        self.total_steps = config.steps or source.steps_in(config.epochs or 0)
        self.settings = plain_settings(config, processes=processes.count)
        self.tokenizer = (
            Tokenizer.from_file(config.data.vocabulary)
            if config.data.vocabulary
            else Tokenizer.bert_uncased()
        )
        self.preprocessing = Preprocessing(
            frames=config.model.vision.frames,
            size=config.model.vision.image_size,
            antialias=False,
            max_text_tokens=config.data.max_text_tokens,
        )
        check_fit(config.model, tokenizer=self.tokenizer, preprocessing=self.preprocessing)
        self.model = _initial_model(config).to(processes.device)
        teacher = load_teacher(config.teacher).to(processes.device) if config.teacher else None
        objective = Objective(
            self.model,
            teacher=teacher,
            tokenizer=self.tokenizer,
            losses=config.losses,
            mask=config.mask,
            options=config.loss_options,
            masked_language_probability=config.masked_language_probability,
        )
        self.clock = StepClock(clips_per_step=config.data.batch_size * processes.count)
        self.take_step = TrainStep(
            objective, config=config, processes=processes, total_steps=self.total_steps
        )

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
        with self._open_log(state.step) as log:
            for outcome, state, pace in self._steps(start, should_stop):
                if log is not None and self._is_due(state.step, self.config.run.log_every):
                    log.write(state.step - 1, _metrics(outcome, state, pace))
                if on_step is not None and self.processes.is_first:
                    on_step(_step_report(outcome, state, pace, total_steps=self.total_steps))
                if self._is_due(state.step, self.config.run.checkpoint_every):
                    self._save_checkpoint(state)
        checkpoint = self._save_checkpoint(state)
        interrupted = state.step < self.total_steps
        if self.processes.is_first:
            self._finish(interrupted=interrupted)
        return PretrainReport(
            steps=state.step,
            total_steps=self.total_steps,
            interrupted=interrupted,
            skipped_steps=state.skipped_steps,
            unreadable_samples=self.source.unreadable_samples,
            losses=outcome.losses if outcome else {},
            seconds=time.perf_counter() - started,
            data_wait_seconds=self.clock.waited_seconds,
            checkpoint=checkpoint,
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
            return load_checkpoint(newest, model=self.model, optimizer=self.take_step.optimizer)
        if self.processes.is_first:
            self.out_dir.mkdir(parents=True, exist_ok=True)
            text = json.dumps(asdict(self.config), default=str, indent=2)
            write_atomically(self.out_dir / SETTINGS, text.encode("utf-8"))
        return RunState(step=0, settings=self.settings)

    def _steps(
        self, state: RunState, should_stop: Callable[[], bool]
    ) -> Iterator[tuple[StepOutcome, RunState, Pace]]:
        """Trains until the end or until asked to stop. Raises `TrainingDivergedError`."""
        self.model.train()
        clock = self.clock
        skipped_in_a_row = 0
        batches = self.source.batches(state.step)
        for batch in clock.timing(islice(batches, self.total_steps - state.step)):
            prepared = to_training_batch(
                batch,
                tokenizer=self.tokenizer,
                preprocessing=self.preprocessing,
                device=self.processes.device,
            )
            outcome = self.take_step(prepared, state.step, stop_requested=should_stop())
            state = replace(
                state,
                step=state.step + 1,
                skipped_steps=state.skipped_steps + (not outcome.applied),
            )
            yield outcome, state, clock.step_done(steps_left=self.total_steps - state.step)
            skipped_in_a_row = 0 if outcome.applied else skipped_in_a_row + 1
            if skipped_in_a_row >= self.config.run.max_skipped_in_a_row:
                raise TrainingDivergedError(_divergence_message(state.step, skipped_in_a_row))
            if outcome.stop:
                return

    def _is_due(self, steps_done: int, every: int) -> bool:
        return steps_done % every == 0 or steps_done == self.total_steps

    def _open_log(self, steps_done: int) -> AbstractContextManager[RunLog | None]:
        if not self.processes.is_first:
            return nullcontext()
        return RunLog(self.out_dir, steps_done=steps_done, tensorboard=self.config.run.tensorboard)

    def _save_checkpoint(self, state: RunState) -> Path:
        folder = self.out_dir / CHECKPOINTS
        newest = checkpoint_path(folder, state.step)
        if self.processes.is_first and not is_complete(newest):
            save_checkpoint(
                folder,
                model=self.model,
                optimizer=self.take_step.optimizer,
                state=state,
                keep_last=self.config.run.keep_checkpoints,
            )
        return newest

    def _finish(self, *, interrupted: bool) -> None:
        if not interrupted:
            save_model(self.model, self.tokenizer, self.preprocessing, self.out_dir / MODEL)
        metrics = self.out_dir / METRICS_FILE
        if has_losses(metrics):
            plot_losses(metrics, self.out_dir / LOSS_PLOT)


def _initial_model(config: PretrainConfig) -> VideoTextModel:
    torch.manual_seed(config.run.seed)
    model = VideoTextModel(config.model)
    if config.initial_text_encoder is not None:
        load_initial_text_encoder(model, config.initial_text_encoder)
    if config.initial_model is not None:
        load_initial_model(model, config.initial_model, part=config.initial_part)
    return model


def _metrics(outcome: StepOutcome, state: RunState, pace: Pace) -> dict[str, float]:
    """A line of the metrics file; a step that was skipped has no losses."""
    measured = {
        **outcome.losses,
        "gradient_norm": outcome.gradient_norm,
        "temperature": outcome.temperature,
    }
    return {
        **(measured if outcome.applied else {}),
        "learning_rate": outcome.learning_rate,
        "skipped_steps": state.skipped_steps,
        **asdict(pace),
    }


def _step_report(
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
        clips_per_second=pace.clips_per_second,
        data_wait_fraction=pace.data_wait_fraction,
        seconds_left=pace.seconds_left,
    )


def _divergence_message(step: int, skipped: int) -> str:
    return (
        f"the last {skipped} steps before step {step} had a loss or gradient that is not finite, "
        "and were skipped; start a new run with the newest checkpoint as initial_model and a lower "
        "learning_rate, with clip_gradient_norm, or with precision fp32"
    )
