from dataclasses import replace
from pathlib import Path

import pytest

from reelscan.models.video_text import video_text_middle
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)
from reelscan.pretrain.stages import video_text_masked
from reelscan.pretrain.step_options import GuardConfig, ParallelConfig

SHARDS = (Path("a.index.json"),)
TEACHER = Path("clip.safetensors")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MaskConfig(kind="checkerboard"), "choose one of none, random, tube"),
        (lambda: MaskConfig(ratio=1.0), r"mask\.ratio is 1\.0"),
        (lambda: MaskConfig(image_ratio=-0.1), r"mask\.image_ratio is -0\.1"),
        (lambda: LossWeights(matching=-1.0), "at least 0"),
        (lambda: LossWeights(matching=float("nan")), "at least 0"),
        (lambda: LossWeights(alignment=0, contrastive=0, matching=0, masked_language=0), "raise"),
        (lambda: DataConfig(batch_size=0), "batch_size is 0"),
        (lambda: DataConfig(workers=-1), "workers is -1"),
        (lambda: DataConfig(crop_scale=(0.8, 0.5)), "crop_scale"),
        (lambda: DataConfig(crop_ratio=(0.0, 1.0)), "crop_ratio"),
        (lambda: DataConfig(cache_bytes=-1), "cache_bytes"),
        (lambda: DataConfig(decode_size=0), "decode_size"),
        (lambda: DataConfig(sampling="first"), "choose random or middle"),
        (lambda: DataConfig(max_text_tokens=2), "max_text_tokens is 2"),
        (lambda: OptimizerConfig(learning_rate=0.0), "learning_rate is 0"),
        (lambda: OptimizerConfig(learning_rate=float("inf")), "learning_rate is inf"),
        (lambda: OptimizerConfig(betas=(0.9, 1.0)), "betas"),
        (lambda: OptimizerConfig(weight_decay=-0.1), "weight_decay"),
        (lambda: OptimizerConfig(vision_layer_decay=0.0), "vision_layer_decay is 0"),
        (lambda: OptimizerConfig(warmup_fraction=1.5), "warmup_fraction is 1.5"),
        (lambda: OptimizerConfig(final_learning_rate_fraction=-1), "final_learning_rate_fraction"),
        (lambda: OptimizerConfig(clip_gradient_norm=0.0), "clip_gradient_norm is 0"),
        (lambda: RunConfig(device="tpu"), "choose auto, cpu or cuda"),
        (lambda: RunConfig(precision="fp16"), "choose auto, fp32, bf16 or bf16_weights"),
        (lambda: RunConfig(scan="fast"), "choose auto, cuda, fused, chunked or mamba_ssm"),
        (lambda: RunConfig(log_every=0), "log_every is 0"),
        (lambda: RunConfig(held_out_every=0), "held_out_every is 0"),
        (lambda: ParallelConfig(sharding="zero"), "choose replicated or fully_sharded"),
        (lambda: ParallelConfig(accumulate=0), "accumulate is 0"),
        (lambda: GuardConfig(spike_deviations=0.0), "spike_deviations is 0"),
        (lambda: GuardConfig(memory_steps=1), "memory_steps is 1"),
        (lambda: GuardConfig(max_roll_backs=-1), "max_roll_backs is -1"),
        (lambda: GuardConfig(on_divergence="pray"), "choose stop or roll_back"),
        (lambda: LossOptions(contrastive="hinge"), "choose softmax or sigmoid"),
        (
            lambda: LossOptions(contrastive="sigmoid", contrastive_gradient="local_slice"),
            "never published",
        ),
    ],
)
def test_a_setting_out_of_range_is_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 5}, "epochs is 10 and steps is 5"),
        ({"epochs": None}, "give one of them"),
        ({"epochs": 0}, "at least 1"),
        ({"teacher": None}, "there is no teacher"),
        ({"teacher": None, "losses": LossWeights(alignment=0.0)}, "attention could be used"),
        ({"data": DataConfig(batch_size=1)}, "at least 2"),
        ({"masked_language_probability": 0.0}, "masked_language_probability"),
        ({"initial_part": "text"}, "initial_part"),
        ({"losses": LossWeights(distillation=1.0)}, "give both, or neither"),
        ({"smaller_encoder": Path("small")}, "give both, or neither"),
        ({"parallel": ParallelConfig(accumulate=7)}, "accumulate = 7 does not divide"),
        ({"parallel": ParallelConfig(accumulate=128)}, "leaves 1 clip a part"),
        (
            {"published": True, "parallel": ParallelConfig(accumulate=2)},
            "choose 1 and replicated, or precision bf16",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(changes, message):
    config = video_text_masked(shards=SHARDS, teacher=TEACHER)
    with pytest.raises(ValueError, match=message):
        replace(config, **changes)


def test_alignment_needs_layers_to_align():
    model = video_text_middle()
    model = replace(model, vision=replace(model.vision, alignment_layers=0))
    with pytest.raises(ValueError, match="alignment_layers is 0"):
        PretrainConfig(model=model, teacher=TEACHER, epochs=1)
