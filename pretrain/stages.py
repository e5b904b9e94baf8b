"""The stages of pretraining as presets, with the published values, and what follows them.

Stages build on each other: `video_only_masked` (the encoder learns to see like a CLIP teacher),
`video_text_masked` (captions join), `unmasked` (a short epoch with all tokens visible). Then
`fine_tuned` on the captions of a benchmark. `self_distilled` is another first stage, for larger
encoders; `single_gpu` the second stage for who has one.
"""

from dataclasses import replace
from pathlib import Path

from reelscan.models.video_text import VideoTextConfig, video_text_middle, video_text_small
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
)
from reelscan.pretrain.step_options import ParallelConfig


def video_only_masked(
    *,
    shards: tuple[str | Path, ...],
    teacher: Path,
    model: VideoTextConfig | None = None,
    batch_size: int = 64,
    processes: int = 1,
) -> PretrainConfig:
    """First stage, as published for Kinetics-400: alignment with CLIP alone, captions unread.

    `processes` is the number of GPUs: the learning rate grows with the global batch. The published
    multi-scale crop is a random crop of the same range of areas here.
    """
    return PretrainConfig(
        model=_with_drop_path(model or video_text_middle(), 0.4),
        data=_published_data(shards, batch_size=batch_size, crop_scale=(0.43, 1.0)),
        losses=LossWeights(contrastive=0.0, matching=0.0, masked_language=0.0),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-4 * batch_size * processes / 256,
            betas=(0.9, 0.95),
            warmup_fraction=40 / 800,
        ),
        epochs=800,
        teacher=teacher,
    )


def video_text_masked(
    *,
    shards: tuple[str | Path, ...],
    teacher: Path,
    initial_model: Path | None = None,
    initial_text_encoder: Path | None = None,
    model: VideoTextConfig | None = None,
    batch_size: int = 128,
) -> PretrainConfig:
    """Second stage, as published: all four losses, 80 % of the tokens hidden.

    Takes the vision encoder of the first stage and bert-base-uncased. The learning rate is meant
    for a global batch of 2,048 to 4,096. Flips are on, as published: turn them off if captions
    tell left from right.
    """
    return PretrainConfig(
        model=_with_drop_path(model or video_text_middle(), 0.25),
        data=_published_data(shards, batch_size=batch_size),
        epochs=10,
        teacher=teacher,
        initial_model=initial_model,
        initial_part="vision_encoder",
        initial_text_encoder=initial_text_encoder,
    )


def unmasked(
    *,
    shards: tuple[str | Path, ...],
    initial_model: Path | None = None,
    model: VideoTextConfig | None = None,
    batch_size: int = 64,
) -> PretrainConfig:
    """Third stage, as published: one epoch with everything visible and without the teacher."""
    return PretrainConfig(
        model=_with_drop_path(model or video_text_middle(), 0.25),
        data=_published_data(shards, batch_size=batch_size),
        losses=LossWeights(alignment=0.0),
        mask=MaskConfig(kind="none", ratio=0.0),
        optimizer=OptimizerConfig(learning_rate=8e-5, warmup_fraction=0.2),
        epochs=1,
        initial_model=initial_model,
    )


def self_distilled(
    *,
    shards: tuple[Path, ...],
    smaller_encoder: Path,
    model: VideoTextConfig | None = None,
    batch_size: int = 64,
) -> PretrainConfig:
    """A larger encoder follows the final features of a smaller one that is trained already.

    The published way to keep the larger sizes from overfitting. Everything is visible and captions
    are not read; without a CLIP teacher.
    """
    return PretrainConfig(
        model=_with_drop_path(model or video_text_middle(), 0.4),
        data=_published_data(shards, batch_size=batch_size, crop_scale=(0.43, 1.0)),
        losses=LossWeights(
            alignment=0.0, contrastive=0.0, matching=0.0, masked_language=0.0, distillation=1.0
        ),
        mask=MaskConfig(kind="none", ratio=0.0),
        optimizer=OptimizerConfig(
            learning_rate=1.5e-4 * batch_size / 256, betas=(0.9, 0.95), warmup_fraction=0.05
        ),
        epochs=100,
        smaller_encoder=smaller_encoder,
    )


def single_gpu(
    *,
    shards: tuple[Path, ...],
    teacher: Path,
    initial_model: Path | None = None,
    initial_text_encoder: Path | None = None,
    model: VideoTextConfig | None = None,
) -> PretrainConfig:
    """The second stage on one GPU of 24 GB or more: 1,024 clips a step in parts of 32.

    The contrastive loss compares all of them, exactly. The learning rate is the published one,
    scaled by the square root of the batch.
    """
    stage = video_text_masked(
        shards=shards,
        teacher=teacher,
        initial_model=initial_model,
        initial_text_encoder=initial_text_encoder,
        model=model or video_text_small(),
        batch_size=1024,
    )
    return replace(
        stage,
        data=replace(stage.data, workers=8),
        optimizer=replace(stage.optimizer, learning_rate=2e-4),
        parallel=ParallelConfig(accumulate=32, recompute_fusion=True),
    )


def fine_tuned(
    *,
    shards: tuple[Path, ...],
    initial_model: Path,
    model: VideoTextConfig | None = None,
    batch_size: int = 32,
) -> PretrainConfig:
    """On the training captions of a retrieval benchmark, from any checkpoint.

    Contrastive and matching loss with everything visible; flips are off, for captions of benchmarks
    tell left from right.
    """
    data = _published_data(shards, batch_size=batch_size)
    return PretrainConfig(
        model=_with_drop_path(model or video_text_middle(), 0.2),
        data=replace(data, flip=False),
        losses=LossWeights(alignment=0.0, masked_language=0.0),
        mask=MaskConfig(kind="none", ratio=0.0),
        optimizer=OptimizerConfig(learning_rate=2e-5, weight_decay=0.02, warmup_fraction=0.1),
        epochs=10,
        initial_model=initial_model,
    )


def _published_data(
    shards: tuple[str | Path, ...],
    *,
    batch_size: int,
    crop_scale: tuple[float, float] = (0.5, 1.0),
) -> DataConfig:
    """The published augmentation; frames are decoded large enough for its crops to stay sharp."""
    return DataConfig(
        shards=shards,
        batch_size=batch_size,
        decode_size=320,
        crop_scale=crop_scale,
        flip=True,
    )


def _with_drop_path(model: VideoTextConfig, rate: float) -> VideoTextConfig:
    return replace(model, vision=replace(model.vision, drop_path_rate=rate))
