"""Training steps on one GPU and on two: how much faster, and whether they are the same.

Needs NVIDIA GPUs and, beside torch, nothing that reads videos: the batches are random numbers.
Starts torch's launcher by itself. The last line is JSON.

    python benchmarks/scaling.py                    # one GPU, two with DDP, two with FSDP2
    python benchmarks/scaling.py --size S --batch 64 --to benchmarks/results/scaling
    python benchmarks/scaling.py --device cpu --size demo --batch 8 --steps 2 --memory 0

What is measured, all with the losses of the second stage, 8 frames of 224 px and 80 % hidden:

- scaling: clips a second of two GPUs over those of one, `--batch` clips on each GPU, bf16;
- equality: losses and gradient norm over the same `--equal` clips, without chance, in float32: on
  one GPU at once, in parts (GradCache), on two with DDP and with FSDP2. Matching is off there, as
  its negatives are those of a process;
- memory: a step of `--memory` clips (4,096) in parts on one GPU, and its peak.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch

from reelscan.models.bert import BertConfig
from reelscan.models.clip_vit import ClipVision, ClipVisionConfig, clip_vit_base_patch16
from reelscan.models.flops import encoder_flops, peak_flops
from reelscan.models.tokenizer import TokenBatch, Tokenizer
from reelscan.models.video_text import (
    VideoTextConfig,
    VideoTextModel,
    video_text_middle,
    video_text_small,
    video_text_tiny,
)
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.distributed import Processes, joined_processes, wait_for_all
from reelscan.pretrain.objective import Objective, TrainingBatch
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.step_options import ParallelConfig
from reelscan.pretrain.train_step import TrainStep

HIDDEN = 0.8
TEXT_TOKENS = 32
WARM_UPS = 3
DIFFERENT = 64
"""Clips that differ; further ones repeat them, or random numbers would take most of the time."""


@dataclass(frozen=True)
class TokenIds:
    """All that a training step asks a tokenizer for."""

    pad_id: int = 0
    cls_id: int = 2
    mask_id: int = 4
    vocab_size: int = 1000


@dataclass(frozen=True, kw_only=True)
class RandomParts(Sequence[TrainingBatch]):
    """Parts of a batch that are the same whenever, and in whatever process, they are asked for."""

    first: int
    """Number of the first clip among those of all processes."""
    count: int
    size: int
    """Clips of a part."""
    model: VideoTextConfig
    device: torch.device

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> TrainingBatch:  # type: ignore[override]
        if not 0 <= number < self.count:
            raise IndexError(number)
        start = self.first + number * self.size
        frames, size = self.model.vision.frames, self.model.vision.image_size
        rows = range(start, start + self.size)
        made = (random_clip(row % DIFFERENT, frames, size) for row in rows)
        clips, ids = zip(*made, strict=True)
        return TrainingBatch(
            clips=torch.stack(clips).to(self.device).float() / 64 - 2,
            text=TokenBatch(
                torch.stack(ids).to(self.device),
                torch.ones(self.size, TEXT_TOKENS, dtype=torch.bool, device=self.device),
            ),
            sample_ids=torch.arange(start, start + self.size, device=self.device),
        )


@lru_cache(maxsize=DIFFERENT)
def random_clip(seed: int, frames: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """uint8 [T, 3, S, S] and the ids [L] of its caption."""
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, 3, size, size)
    clip = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    return clip, torch.randint(5, 1000, (TEXT_TOKENS,), generator=generator)


def demo_model() -> VideoTextConfig:
    """Tiny, to try this script on a CPU."""
    return VideoTextConfig(
        vision=VideoMambaConfig(
            image_size=32, frames=2, depth=2, width=48, alignment_width=16, patch_size=8
        ),
        text=BertConfig(
            vocab_size=1000,
            hidden_size=32,
            num_hidden_layers=2,
            fusion_layer=1,
            encoder_width=48,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=TEXT_TOKENS,
        ),
        embed_dim=16,
    )


MODELS = {
    "demo": demo_model,
    "Ti": video_text_tiny,
    "S": video_text_small,
    "M": video_text_middle,
}


def teacher_of(size: str) -> ClipVisionConfig:
    if size == "demo":
        return ClipVisionConfig(
            image_size=32, patch_size=8, width=16, layers=1, heads=2, output_dim=16
        )
    return clip_vit_base_patch16()


@dataclass(frozen=True, kw_only=True)
class Task:
    """One measurement, in as many processes as it is started in."""

    size: str
    clips: int
    """Of all processes."""
    steps: int
    sharding: str = "replicated"
    accumulate: int = 1
    exact: bool = False
    """float32, without chance and without the matching loss."""
    device: str = "cuda"
    recompute: bool = False


def run_task(task: Task) -> dict[str, object] | None:
    """Trains; what was measured, in the first process."""
    with joined_processes(task.device) as processes:
        take_step, model = build(task, processes)
        local = task.clips // processes.count
        batch = RandomParts(
            first=processes.rank * local,
            count=task.accumulate,
            size=local // task.accumulate,
            model=model,
            device=processes.device,
        )
        # Made once, so that the GPUs do not wait for random numbers; not where memory is measured.
        parts: Sequence[TrainingBatch] = list(batch) if task.accumulate == 1 else batch
        warm_ups = 0 if task.exact else WARM_UPS if task.accumulate == 1 else 0
        outcomes = [take_step(parts, step, stop_requested=False) for step in range(warm_ups)]
        wait_until_done(processes)
        started = time.perf_counter()
        for step in range(warm_ups, warm_ups + task.steps):
            outcomes.append(take_step(parts, step, stop_requested=False))
        wait_until_done(processes)
        seconds = time.perf_counter() - started
        if not processes.is_first:
            return None
        return told(task, processes, outcomes, seconds, model)


def told(
    task: Task,
    processes: Processes,
    outcomes: Sequence[object],
    seconds: float,
    model: VideoTextConfig,
) -> dict[str, object]:
    rate = task.clips * task.steps / seconds
    flops = 3 * encoder_flops(model.vision, frames=model.vision.frames, visible_fraction=1 - HIDDEN)
    peak = peak_flops(processes.device)
    on_gpu = processes.device.type == "cuda"
    memory = torch.cuda.max_memory_allocated() / 2**30 if on_gpu else 0.0
    return {
        "processes": processes.count,
        "sharding": task.sharding,
        "parts": task.accumulate,
        "clips": task.clips,
        "seconds_a_step": round(seconds / task.steps, 4),
        "clips_per_second": round(rate, 2),
        "encoder_mfu": round(rate * flops / (peak * processes.count), 4) if peak else None,
        "memory_gib": round(memory, 2),
        "losses": [outcome.losses for outcome in outcomes],  # type: ignore[attr-defined]
        "gradient_norms": [outcome.gradient_norm for outcome in outcomes],  # type: ignore[attr-defined]
    }


def wait_until_done(processes: Processes) -> None:
    if processes.device.type == "cuda":
        torch.cuda.synchronize()
    wait_for_all()


def build(task: Task, processes: Processes) -> tuple[TrainStep, VideoTextConfig]:
    """The second stage's step: teacher, masks and losses on; a model with random weights."""
    model = without_chance(MODELS[task.size]()) if task.exact else MODELS[task.size]()
    if task.recompute:
        vision = replace(model.vision, checkpointed_blocks=model.vision.depth)
        model = replace(model, vision=vision)
    config = PretrainConfig(
        model=model,
        data=DataConfig(batch_size=task.clips // processes.count),
        losses=LossWeights(matching=0.0, masked_language=0.0) if task.exact else LossWeights(),
        mask=MaskConfig(kind="none") if task.exact else MaskConfig(ratio=HIDDEN),
        optimizer=OptimizerConfig(learning_rate=1e-4, warmup_fraction=0.0),
        run=RunConfig(
            device="cpu" if task.device == "cpu" else "cuda",
            precision="fp32" if task.exact or task.device == "cpu" else "bf16",
        ),
        parallel=ParallelConfig(
            sharding="fully_sharded" if task.sharding == "fully_sharded" else "replicated",
            accumulate=task.accumulate,
            recompute_fusion=task.recompute,
        ),
        teacher=Path("random"),
        steps=1000,
    )
    torch.manual_seed(0)
    student = VideoTextModel(model)
    teacher = ClipVision(teacher_of(task.size))
    if config.run.precision == "bf16":
        teacher = teacher.to(torch.bfloat16)
    objective = Objective(
        student,
        teacher=teacher,
        tokenizer=cast(Tokenizer, TokenIds()),
        losses=config.losses,
        mask=config.mask,
        recompute_fusion=task.recompute,
    ).to(processes.device)
    objective.model.train()
    return TrainStep(objective, config=config, processes=processes, total_steps=1000), model


def without_chance(model: VideoTextConfig) -> VideoTextConfig:
    text = replace(model.text, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    return replace(model, text=text)


def launch(task: Task, processes: int) -> dict[str, object]:
    """Runs a task in processes of its own, so that every one starts with an empty GPU."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    shared = {**os.environ, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    shared |= {"WORLD_SIZE": str(processes), "SCALING_TASK": json.dumps(vars(task))}
    running = [
        subprocess.Popen(
            [sys.executable, __file__],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]
    outputs = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        raise SystemExit(f"a process of {task} failed; see above")
    result: dict[str, object] = json.loads(outputs[0].splitlines()[-1])
    print(
        f"{processes} x {task.sharding:<13} {task.accumulate:>3} parts {task.clips:>5} clips: "
        f"{result['clips_per_second']:>8} clips/s, {result['seconds_a_step']:>8} s a step, "
        f"{result['memory_gib']:>6} GiB, encoder MFU {result['encoder_mfu']}",
        flush=True,
    )
    return result


def largest_difference(result: dict[str, object], reference: dict[str, object]) -> float:
    """Of total loss and gradient norm over all steps, relative to the reference."""
    differences = []
    for name in ("losses", "gradient_norms"):
        given, expected = (cast(list[object], each[name]) for each in (result, reference))
        for mine, theirs in zip(given, expected, strict=True):
            if isinstance(mine, dict) and isinstance(theirs, dict):
                mine, theirs = mine["total"], theirs["total"]
            differences.append(abs(float(str(mine)) / float(str(theirs)) - 1))
    return max(differences)


def measure(options: argparse.Namespace) -> dict[str, object]:
    common = {"size": options.size, "device": options.device}
    processes = 2 if options.device == "cpu" else min(2, torch.cuda.device_count())
    kinds = ("replicated", "fully_sharded") if processes == 2 else ()

    print(f"scaling, {options.batch} clips on each GPU")
    one = launch(Task(clips=options.batch, steps=options.steps, **common), 1)
    scaling = {"1": one}
    factors = {}
    for kind in kinds:
        task = Task(clips=2 * options.batch, steps=options.steps, sharding=kind, **common)
        scaling[f"2 {kind}"] = result = launch(task, 2)
        factors[kind] = float(str(result["clips_per_second"])) / float(str(one["clips_per_second"]))

    print(f"equality, the same {options.equal} clips in float32, {options.equal_steps} steps")
    exact = {"clips": options.equal, "steps": options.equal_steps, "exact": True, **common}
    reference = launch(Task(**exact), 1)
    equality = {"1, 4 parts": launch(Task(accumulate=4, **exact), 1)}
    for kind in kinds:
        equality[f"2 {kind}"] = launch(Task(sharding=kind, **exact), 2)
        equality[f"2 {kind}, 2 parts"] = launch(Task(sharding=kind, accumulate=2, **exact), 2)
    differences = {name: largest_difference(result, reference) for name, result in equality.items()}

    memory = None
    if options.memory:
        print(f"memory, a global batch of {options.memory} clips on one GPU")
        parts = max(1, options.memory // options.part)
        memory = launch(Task(clips=options.memory, steps=1, accumulate=parts, **common), 1)
    return {
        "device": torch.cuda.get_device_name() if options.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "size": options.size,
        "scaling_1_to_2": factors,
        "largest_relative_difference": differences,
        "large_batch": without_losses(memory),
        "scaling": {name: without_losses(result) for name, result in scaling.items()},
        "equality": {name: without_losses(result) for name, result in equality.items()},
    }


def without_losses(result: dict[str, object] | None) -> dict[str, object] | None:
    if result is None:
        return None
    return {k: v for k, v in result.items() if k not in ("losses", "gradient_norms")}


def main() -> None:
    parser = argparse.ArgumentParser(description="Scaling and equality of training steps.")
    parser.add_argument("--size", choices=MODELS, default="M")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch", type=int, default=64, help="clips on each GPU, for scaling")
    parser.add_argument("--steps", type=int, default=10, help="timed steps")
    parser.add_argument("--equal", type=int, default=16, help="clips of the equality check")
    parser.add_argument("--equal-steps", type=int, default=3)
    parser.add_argument(
        "--memory", type=int, default=4096, help="clips of the large batch; 0: none"
    )
    parser.add_argument("--part", type=int, default=64, help="clips of its parts")
    parser.add_argument("--to", type=Path, help="folder for scaling.json")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        raise SystemExit("PyTorch sees no GPU here; --device cpu tries the script")
    results = measure(options)
    if options.to is not None:
        options.to.mkdir(parents=True, exist_ok=True)
        (options.to / "scaling.json").write_text(json.dumps(results, indent=1) + "\n")
    print(json.dumps(results))


if __name__ == "__main__":
    if "SCALING_TASK" in os.environ:
        measured = run_task(Task(**json.loads(os.environ["SCALING_TASK"])))
        print(json.dumps(measured))
    else:
        main()
