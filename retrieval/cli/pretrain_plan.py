"""`reelscan pretrain --dry-run`: what a run will take, as text."""

import math
import os
import shutil
from pathlib import Path

import torch

from reelscan.pretrain.distributed import Processes
from reelscan.pretrain.pretrain_config import PretrainConfig
from reelscan.pretrain.published_scale import PublishedCorpus
from reelscan.pretrain.run_plan import RunPlan, count_samples, plan_run
from reelscan.pretrain.training_data import open_shards


def plan_of(config: PretrainConfig, corpus: PublishedCorpus | None) -> RunPlan:
    """Counted in the given shards, or else as the published corpus has it.

    Raises ValueError if there is neither.
    """
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if config.data.shards or config.data.image_shards:
        videos, images = count_samples(config.data)
        alone = Processes(
            rank=int(os.environ.get("RANK", "0")), count=processes, device=torch.device("cpu")
        )
        steps = config.steps or open_shards(config, alone).steps_in(config.epochs or 0)
    elif corpus is not None:
        videos, images = float(corpus.videos), float(corpus.images)
        clips = config.data.batch_size * processes
        steps = config.steps or math.floor((config.epochs or 0) * (videos + images) / clips)
    else:
        raise ValueError(
            "nothing tells how many samples there are; give --data.shards, or name a published "
            "corpus (video-text-masked:middle:25M)"
        )
    return plan_run(config, processes=processes, videos=videos, images=images, steps=steps)


def plan_text(plan: RunPlan, out: Path) -> str:
    """A table, and a warning for each thing that will not fit."""
    plural = "es" if plan.processes > 1 else ""
    together = f"{plan.clips_per_step:,} in {plan.processes} process{plural}"
    hours = plan.gpu_hours
    each = f" ({hours / plan.processes:,.1f} h on {plan.processes})" if plan.processes > 1 else ""
    rows = [
        ("videos, images an epoch", f"{plan.videos:,.0f}, {plan.images:,.0f}"),
        ("clips a step", f"{together}, {plan.clips_at_once:,} at once"),
        ("steps", f"{plan.steps:,}"),
        ("trained parameters", f"{plan.parameters / 1e6:,.1f} M"),
        ("operations a step", f"{plan.flops_per_step / 1e12:,.1f} TFLOP"),
        ("H100-hours, about", f"{hours:,.1f}{each}"),
        ("memory a GPU, about", f"{plan.memory_gib:,.1f} GiB"),
        ("disk", f"{plan.disk_gib:,.1f} GiB"),
    ]
    lines = [f"{name:<26}{value}" for name, value in rows]
    return "\n".join([*lines, *_warnings(plan, out)])


def _warnings(plan: RunPlan, out: Path) -> list[str]:
    found = []
    existing = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    if free < plan.disk_gib:
        found.append(f"warning: {existing} has {free:,.1f} GiB left, less than that")
    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / 2**30
        if gib < plan.memory_gib:
            found.append(
                f"warning: a GPU here has {gib:,.1f} GiB; raise --parallel.accumulate, set "
                "--parallel.recompute-fusion or --model.vision.checkpointed-blocks"
            )
    if not plan.steps:
        found.append("warning: fewer samples than a step has clips; lower --data.batch-size")
    return found
