from pathlib import Path

import pytest

from reelscan.pretrain.pretrain_config import LossWeights
from reelscan.pretrain.stages import (
    fine_tuned,
    self_distilled,
    single_gpu,
    unmasked,
    video_only_masked,
    video_text_masked,
)

SHARDS = (Path("a.index.json"),)
TEACHER = Path("clip.safetensors")


def test_video_only_masked_is_as_published():
    config = video_only_masked(shards=SHARDS, teacher=TEACHER, batch_size=64, processes=16)
    assert (config.mask.kind, config.mask.ratio) == ("attention", 0.8)
    assert config.optimizer.learning_rate == pytest.approx(1.5e-4 * 1024 / 256)
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.optimizer.weight_decay == 0.05
    assert config.epochs == 800
    assert config.optimizer.warmup_fraction * config.epochs == pytest.approx(40)
    assert config.model.vision.drop_path_rate == 0.4
    assert config.losses.alignment == 1.0 and not config.losses.need_text
    assert config.data.flip


def test_video_text_masked_is_as_published():
    config = video_text_masked(shards=SHARDS, teacher=TEACHER)
    assert (config.mask.kind, config.mask.ratio, config.mask.image_ratio) == ("attention", 0.8, 0.5)
    assert config.losses == LossWeights(
        alignment=1.0, contrastive=1.0, matching=1.0, masked_language=1.0
    )
    settings = config.optimizer
    assert (settings.learning_rate, settings.betas, settings.weight_decay) == (
        4e-4,
        (0.9, 0.999),
        0.05,
    )
    assert config.epochs == 10
    assert settings.warmup_fraction * config.epochs == pytest.approx(1)
    assert settings.final_learning_rate_fraction == 0.01
    assert config.model.vision.drop_path_rate == 0.25
    assert config.data.batch_size == 128 and config.data.max_text_tokens == 32
    assert config.data.crop_scale == (0.5, 1.0) and config.data.flip
    assert config.masked_language_probability == 0.5
    assert config.initial_part == "vision_encoder"


def test_unmasked_is_as_published():
    config = unmasked(shards=SHARDS)
    assert config.mask.kind == "none"
    assert config.losses.alignment == 0 and config.losses.need_text
    assert config.teacher is None
    assert config.optimizer.learning_rate == 8e-5
    assert config.epochs == 1
    assert config.optimizer.warmup_fraction * config.epochs == pytest.approx(0.2)
    assert config.data.batch_size == 64
    assert config.initial_part == "everything"


def test_one_gpu_compares_as_many_clips_in_parts():
    config = single_gpu(shards=SHARDS, teacher=TEACHER)
    assert config.model.vision.width == 384
    assert (config.data.batch_size, config.parallel.accumulate) == (1024, 32)
    assert config.losses == video_text_masked(shards=SHARDS, teacher=TEACHER).losses


def test_self_distillation_needs_no_clip_teacher_and_reads_no_captions():
    config = self_distilled(shards=SHARDS, smaller_encoder=Path("small/model"))
    assert config.teacher is None and not config.losses.need_text
    assert config.losses.distillation == 1.0 and config.mask.kind == "none"


def test_fine_tuning_sees_everything_and_mirrors_nothing():
    config = fine_tuned(shards=SHARDS, initial_model=Path("run/checkpoints/step-00000003"))
    assert config.mask.kind == "none" and not config.data.flip
    assert config.losses.contrastive and config.losses.matching
    assert not config.losses.alignment and not config.losses.masked_language
    assert config.initial_part == "everything"
