"""`reelscan pretrain replay`: does a skipped step again."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reelscan.pretrain.replay import Replay, replay_step
from reelscan.retrieval.cli.arguments import as_json, parse_arguments


@dataclass(frozen=True, kw_only=True)
class Command:
    """Does a skipped step of a run again: its losses, its gradients, and which are not finite.

    Takes the clips of all processes, the draws of the step, and a checkpoint's weights. Another
    precision tells whether rounding was to blame. Nothing is learned or written.

    Examples:
      reelscan pretrain replay run2/skipped/step-00001234-process-0.safetensors
      reelscan pretrain replay run2/skipped/step-00001234-process-0.safetensors --precision fp32
    """

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE")]
    """The saved batch, of any process."""
    checkpoint: Path | None = None
    """Folder step-N with the weights; none: the run's newest, or what it started from."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto takes a GPU if there is one."""
    precision: Literal["fp32", "bf16", "bf16_weights"] | None = None
    """As in run.precision; none: that of the run."""
    json: bool = False
    """Print json."""


def main(arguments: list[str]) -> int:
    """Prints what came out."""
    command = parse_arguments(Command, "pretrain replay", arguments)
    replay = replay_step(
        command.file,
        checkpoint=command.checkpoint,
        device=command.device,
        precision=command.precision,
    )
    print(as_json(replay) if command.json else replay_text(replay))
    return 0


def replay_text(replay: Replay) -> str:
    """Then and now, side by side."""
    skipped = replay.skipped
    weights = replay.checkpoint or "the weights that the run started from"
    lines = [f"step {skipped.step}, {replay.clips} clips, weights: {weights}", ""]
    lines.append(f"{'':<24}{'in the run':>12}{'now':>12}")
    for name, loss in replay.losses.items():
        then = skipped.losses.get(name)
        lines.append(f"{name:<24}{_number(then):>12}{loss:>12.4g}")
    lines.append(f"{'highest total allowed':<24}{_number(skipped.highest_loss):>12}")
    lines.append(f"{'gradient norm':<24}{_number(skipped.gradient_norm):>12}")
    for part, norm in replay.gradient_norms.items():
        lines.append(f"{'gradient norm, ' + part:<24}{'':>12}{norm:>12.4g}")
    if replay.broken_gradients:
        lines += [
            "",
            "gradients that are not finite:",
            *map("  {}".format, replay.broken_gradients),
        ]
    else:
        lines += ["", "every gradient is finite"]
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.4g}"
