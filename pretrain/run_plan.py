"""What a run will take, before anything starts: samples, steps, GPU-hours, disk, memory.

Time and memory are estimates from counted operations and two measurements on one H100 (README):
training reaches 6 % of the peak in VideoMamba's blocks with most tokens hidden (8 % with all
visible), and 25 % in transformers; a block keeps 17 bytes a token and channel for the backward
pass. What the run logs as it goes (clips a second, GPU memory) is exact.
"""

from dataclasses import dataclass

import torch

from reelscan.models.clip_vit import ClipVisionConfig, clip_vit_base_patch16
from reelscan.models.flops import encoder_flops
from reelscan.models.video_text import VideoTextModel
from reelscan.pretrain.pretrain_config import DataConfig, PretrainConfig
from reelscan.pretrain.shard_list import open_corpus
from reelscan.pretrain.shard_store import Retries

H100_PEAK = 989e12
BLOCK_UTILISATION = {"masked": 0.06, "visible": 0.08}
TRANSFORMER_UTILISATION = 0.25
BLOCK_BYTES = 17
"""Kept by a VideoMamba block, a token and channel."""
LAYER_BYTES = 34
"""Kept by a transformer layer, a token and channel (Korthikanti et al., 2022, without scores)."""


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run will take."""

    videos: float
    """Videos of an epoch."""
    images: float
    """Images of an epoch."""
    processes: int
    clips_per_step: int
    """Of all processes."""
    clips_at_once: int
    """Of one process, in one forward pass."""
    steps: int
    parameters: int
    """That are trained."""
    flops_per_step: float
    """Of all processes; teacher, forward and backward."""
    gpu_hours: float
    """On H100s, all together, if none waits for data."""
    memory_gib: float
    """Of each GPU at its peak."""
    disk_gib: float
    """Checkpoints, the one being written included, the model, and batches of skipped steps."""


def plan_run(
    config: PretrainConfig, *, processes: int, videos: float, images: float, steps: int
) -> RunPlan:
    """`steps` of a run over so many samples an epoch."""
    with torch.device("meta"):
        trained = sum(p.numel() for p in VideoTextModel(config.model).parameters())
    clips = config.data.batch_size * processes
    video_share = videos / max(videos + images, 1)
    flops = hours = 0.0
    for frames, share in ((config.model.vision.frames, video_share), (1, 1 - video_share)):
        blocks, transformers = _flops_of_clip(config, frames)
        visible = "visible" if config.mask.kind == "none" else "masked"
        seconds = blocks / BLOCK_UTILISATION[visible] + transformers / TRANSFORMER_UTILISATION
        flops += clips * share * (blocks + transformers)
        hours += clips * share * seconds / H100_PEAK / 3600
    return RunPlan(
        videos=videos,
        images=images,
        processes=processes,
        clips_per_step=clips,
        clips_at_once=config.data.batch_size // config.parallel.accumulate,
        steps=steps,
        parameters=trained,
        flops_per_step=flops,
        gpu_hours=steps * hours,
        memory_gib=_memory(config, processes=processes, trained=trained) / 2**30,
        disk_gib=_disk(config, clips=clips, trained=trained) / 2**30,
    )


def count_samples(data: DataConfig) -> tuple[float, float]:
    """Videos and images of an epoch, by the indexes of the shards and their weights."""
    retries = Retries(times=data.shard_retries)
    videos, images = (
        sum(
            weight * open_corpus(index, retries=retries).sample_count
            for index, weight in zip(indexes, weights or (1.0,) * len(indexes), strict=True)
        )
        for indexes, weights in (
            (data.shards, data.weights),
            (data.image_shards, data.image_weights),
        )
    )
    return videos, images


def _flops_of_clip(config: PretrainConfig, frames: int) -> tuple[float, float]:
    """Of a training step, a clip: in VideoMamba's blocks, and in transformers."""
    vision = config.model.vision
    passes = 3 + (config.parallel.accumulate > 1 and config.losses.contrastive > 0)
    share = 1 - _hidden(config, frames)
    blocks = passes * encoder_flops(vision, frames=frames, visible_fraction=share)
    blocks += vision.checkpointed_blocks / vision.depth * blocks / passes
    visible = share * frames / vision.tubelet_size * vision.grid[1] * vision.grid[2]
    transformers = passes * _text_flops(config, visible)
    if config.teacher is not None:
        transformers += frames * _teacher_flops(clip_vit_base_patch16())
    return blocks, transformers


def _text_flops(config: PretrainConfig, visible_tokens: float) -> float:
    """Forward: captions once or twice through the text layers, and up to 4 times through fusion."""
    text, losses = config.model.text, config.losses
    width, tokens = text.hidden_size, config.data.max_text_tokens
    alone = (losses.contrastive > 0 or losses.matching > 0) + (losses.masked_language > 0)
    fused = 3 * (losses.matching > 0) + (losses.masked_language > 0)
    layer = tokens * (8 * width**2 + 4 * width * text.intermediate_size)
    # Cross-attention projects each vision token to a key and a value.
    crossing = tokens * 4 * width**2 + visible_tokens * 4 * text.encoder_width * width
    fusion_layers = text.num_hidden_layers - text.fusion_layer
    words = config.masked_language_probability * tokens * 2 * width * text.vocab_size
    return (
        alone * text.fusion_layer * layer
        + fused * fusion_layers * (layer + crossing)
        + (losses.masked_language > 0) * words
    )


def _teacher_flops(config: ClipVisionConfig) -> float:
    """Forward of a CLIP tower over one frame."""
    tokens = 1 + (config.image_size // config.patch_size) ** 2
    layer = 24 * config.width**2 + 4 * tokens * config.width
    return float(tokens * config.layers * layer)


def _memory(config: PretrainConfig, *, processes: int, trained: int) -> float:
    """Bytes of weights, gradients, AdamW's state, the teacher, and what backward needs."""
    vision, text = config.model.vision, config.model.text
    shards = processes if config.parallel.sharding == "fully_sharded" else 1
    states = 16 * trained / shards
    teacher = 2 * 86e6 if config.teacher is not None else 0.0
    clips = config.data.batch_size // config.parallel.accumulate
    share = 1 - _hidden(config, vision.frames)
    frame_tokens = vision.grid[1] * vision.grid[2]
    tokens = share * vision.grid[0] * frame_tokens
    kept_blocks = vision.depth - min(vision.checkpointed_blocks, vision.depth)
    # A recomputed block keeps its float32 input, and one at a time all the rest.
    block = BLOCK_BYTES * kept_blocks + 6 * (vision.depth - kept_blocks)
    block += BLOCK_BYTES * (kept_blocks < vision.depth)
    kept = clips * tokens * vision.width * block
    if config.losses.need_text:
        fusion = text.num_hidden_layers - text.fusion_layer
        if config.parallel.recompute_fusion:
            fusion = min(fusion, 1)
        layers = 2 * text.fusion_layer + 4 * fusion
        kept += clips * config.data.max_text_tokens * text.hidden_size * LAYER_BYTES * layers
        kept += 4 * clips * fusion * tokens * 2 * text.hidden_size * 2
    pixels = 4 * clips * vision.frames * 3 * vision.image_size**2
    return states + teacher + kept + pixels


def _disk(config: PretrainConfig, *, clips: int, trained: int) -> float:
    vision = config.model.vision
    checkpoints = 12 * trained * (config.run.keep_checkpoints + 1)
    skipped = config.guard.saved_batches * clips * vision.frames * 3 * vision.image_size**2
    return checkpoints + 4 * trained + skipped


def _hidden(config: PretrainConfig, frames: int) -> float:
    """Fraction of the tokens of a clip."""
    if config.mask.kind == "none":
        return 0.0
    return config.mask.image_ratio if frames == 1 else config.mask.ratio
