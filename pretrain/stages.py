"""The stages of pretraining as presets, with the published values, and a small one for a demo.

Stages build on each other: `video_only_masked` (the encoder learns to see like a CLIP teacher),
`video_text_masked` (captions join), `unmasked` (a short epoch with all tokens visible).
"""

from dataclasses import replace
from pathlib import Path

from reelscan.models.bert import BertConfig
from reelscan.models.video_text import VideoTextConfig, video_text_middle
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)

__all__ = [
    "DataConfig",
    "LossWeights",
    "MaskConfig",
    "OptimizerConfig",
    "PretrainConfig",
    "RunConfig",
    "demo_model",
    "demo_video_text",
    "unmasked",
    "video_only_masked",
    "video_text_masked",
]


def video_only_masked(
    *,
    shards: tuple[Path, ...],
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
    shards: tuple[Path, ...],
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
    shards: tuple[Path, ...],
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


def demo_model(*, vocab_size: int, frame_size: int = 64, frames: int = 4) -> VideoTextConfig:
    """A model that learns on two CPU cores: 4 blocks of width 96, 64 tokens a frame."""
    return VideoTextConfig(
        vision=VideoMambaConfig(
            image_size=frame_size,
            patch_size=8,
            frames=frames,
            depth=4,
            width=96,
            alignment_width=64,
            last_alignment_before_mixer=False,
        ),
        text=BertConfig(
            vocab_size=vocab_size,
            hidden_size=96,
            num_hidden_layers=4,
            fusion_layer=2,
            encoder_width=96,
            num_attention_heads=4,
            intermediate_size=384,
            max_position_embeddings=64,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        ),
        embed_dim=64,
    )


def demo_video_text(
    *,
    model: VideoTextConfig,
    shards: tuple[Path, ...],
    teacher: Path | None,
    vocabulary: Path | None,
    steps: int,
    seed: int = 0,
) -> PretrainConfig:
    """The second stage for the demo corpus: small batches, no flips (captions tell directions).

    Without a teacher: contrastive, matching and masked language losses, nothing hidden.
    """
    has_teacher = teacher is not None
    return PretrainConfig(
        model=model,
        data=DataConfig(
            shards=shards,
            batch_size=64,
            vocabulary=vocabulary,
            cache_bytes=1_000_000_000,
            crop_scale=(0.8, 1.0),
        ),
        losses=LossWeights(alignment=1.0 if has_teacher else 0.0),
        mask=MaskConfig(kind="tube", ratio=0.5) if has_teacher else MaskConfig(kind="none"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        run=RunConfig(seed=seed, log_every=1, checkpoint_every=100),
        steps=steps,
        teacher=teacher,
    )


def _published_data(
    shards: tuple[Path, ...],
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
