"""`reelscan pretrain`: trains one stage on shards."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from reelscan.models.encoder import VideoTextEncoder
from reelscan.pretrain.annotations import read_annotations
from reelscan.pretrain.held_out import HeldOut
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.run_reports import PretrainReport, StepReport
from reelscan.pretrain.train import REPORT, TrainingDivergedError, pretrain
from reelscan.retrieval.cli import pretrain_replay
from reelscan.retrieval.cli.pretrain_plan import plan_of, plan_text
from reelscan.retrieval.cli.pretrain_recipes import (
    UnknownRecipeError,
    corpus_table,
    find_recipe,
    recipe_table,
)
from reelscan.retrieval.cli.progress import StageProgress, duration_text
from reelscan.retrieval.evaluate import evaluate

HELP = """usage: reelscan pretrain RECIPE[:SIZE][:CORPUS] --out RUN --data.shards INDEX ... [...]
       reelscan pretrain replay RUN/skipped/FILE.safetensors

Trains one stage on WebDataset shards made by `reelscan shards write`; `replay` does a skipped step
again, to see what was wrong with it.

recipes:
{recipes}
sizes: tiny, small, middle (the default)
corpora, for the published global batch on however many GPUs there are:
{corpora}

Every setting of a recipe can be changed by an option: `reelscan pretrain RECIPE --help` lists
them with their values. Ctrl-C, SIGTERM and SIGUSR1 write a checkpoint and end with exit code 0;
--resume goes on from the newest one, also on another number of GPUs (keep GPUs x batch-size).
Several GPUs: torchrun --nproc-per-node 8 --no-python reelscan pretrain ...

--dry-run tells samples, steps, GPU-hours, disk and memory instead of starting.

examples:
  reelscan pretrain video-text-masked:middle:25M --dry-run
  reelscan pretrain video-only-masked --out run1 --data.shards k400.index.json --teacher CLIP
  reelscan pretrain video-text-masked:small --out run2 --data.shards a.index.json b.index.json \\
      --teacher CLIP --initial-model run1/model --data.batch-size 64
  reelscan pretrain unmasked --out run3 --data.shards a.index.json --initial-model run2/model
  reelscan pretrain fine-tuned --out run4 --data.shards a.index.json --initial-model run3/model"""


@dataclass(frozen=True, kw_only=True)
class Command:
    """Trains one stage; every setting of the recipe is an option."""

    out: Path
    """Folder of the run: checkpoints, metrics, and at the end the model."""
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    """The recipe's settings."""
    held_out: Path | None = None
    """Annotation file (as for `reelscan evaluate`) of videos that are not trained on: their
    zero-shot recall is measured every run.held-out-every steps and at the end."""
    held_out_videos: Path | None = None
    """Folder that its videos' paths are relative to; none: that of the annotation file."""
    resume: bool = False
    """Go on from the newest checkpoint in --out, if there is one."""
    dry_run: bool = False
    """Tell samples, steps, GPU-hours, disk and memory, and start nothing."""


def main(arguments: list[str]) -> int:
    """Trains; 0 also if stopped before the end, for the checkpoint is written."""
    if arguments[:1] == ["replay"]:
        return pretrain_replay.main(arguments[1:])
    if not arguments or arguments[0] in ("-h", "--help"):
        print(HELP.format(recipes=recipe_table(), corpora=corpus_table()))
        return 0 if arguments else 2
    try:
        recipe = find_recipe(arguments[0], placeholders="--dry-run" in arguments)
    except UnknownRecipeError as error:
        print(f"reelscan pretrain: {error}", file=sys.stderr)
        return 2
    command = tyro.cli(
        Command,
        prog=f"reelscan pretrain {arguments[0]}",
        args=arguments[1:],
        default=Command(
            out=Path("TO-BE-GIVEN") if "--dry-run" in arguments else tyro.MISSING,
            settings=recipe.settings,
        ),
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    if command.dry_run:
        if is_first_process():
            print(plan_text(plan_of(command.settings, recipe.corpus), command.out))
        return 0
    try:
        report = run_stage(
            "pretraining",
            command.settings,
            command.out,
            resume=command.resume,
            held_out=held_out_recall(command.held_out, videos=command.held_out_videos),
        )
    except TrainingDivergedError as error:
        print(f"reelscan pretrain: {error}", file=sys.stderr)
        return 1
    if is_first_process():
        print(report_text(report))
    return 0


def run_stage(
    label: str,
    config: PretrainConfig,
    out: Path,
    *,
    resume: bool,
    held_out: HeldOut | None = None,
) -> PretrainReport:
    """Trains with a progress bar, under torchrun in the first process."""
    if not is_first_process():
        return pretrain(config, out, resume=resume, held_out=held_out)
    with StageProgress(label, unit="steps") as bar:

        def show(step: StepReport) -> None:
            note = f"loss {step.losses['total']:.3f}, {step.clips_per_second:.0f} clips/s"
            if step.data_wait_fraction > 0.1:
                note += f", {step.data_wait_fraction:.0%} waiting for data"
            if step.skipped_steps:
                note += f", {step.skipped_steps} steps skipped"
            if step.roll_backs:
                note += f", went back {step.roll_backs} x"
            bar.update(step.step, step.total_steps, note=note)

        return pretrain(config, out, resume=resume, on_step=show, held_out=held_out)


def held_out_recall(annotations: Path | None, *, videos: Path | None) -> HeldOut | None:
    """Zero-shot recalls in percent, by embedding alone; none without annotations."""
    if annotations is None:
        return None
    root = videos or annotations.parent
    # Read now: a mistake in it should not come out after a thousand steps.
    read_annotations(annotations, root=root)

    def measure(encoder: VideoTextEncoder) -> dict[str, float]:
        report = evaluate(encoder, annotations, video_root=root, leave_out_broken=True).embedding
        return {
            f"{short}_recall_at_{rank}": getattr(metrics, f"recall_at_{rank}")
            for short, metrics in (
                ("text_to_video", report.text_to_video),
                ("video_to_text", report.video_to_text),
            )
            for rank in (1, 5, 10)
        }

    return measure


def is_first_process() -> bool:
    """Whether this is the one that talks; torchrun numbers its processes in RANK."""
    return os.environ.get("RANK", "0") == "0"


def report_text(report: PretrainReport) -> str:
    lines = [f"{report.steps} of {report.total_steps} steps in {duration_text(report.seconds)}"]
    if report.losses:
        losses = ", ".join(f"{name} {loss:.3f}" for name, loss in report.losses.items())
        lines.append(f"losses: {losses}")
    if report.data_wait_seconds > 0.05 * report.seconds:
        waited = duration_text(report.data_wait_seconds)
        lines.append(f"waited {waited} of it for data: more --data.workers may help")
    if report.unreadable_samples:
        lines.append(
            f"{report.unreadable_samples} samples could not be read and were left out: see "
            "unreadable-*.jsonl in the run's folder"
        )
    if report.skipped_steps:
        lines.append(f"{report.skipped_steps} steps were skipped: not finite, or a spike")
    lines.append(f"report: {report.checkpoint.parent.parent / REPORT}")
    if report.interrupted:
        lines.append(f"stopped; --resume goes on from {report.checkpoint}")
    else:
        lines.append(f"model: {report.model}")
    return "\n".join(lines)
