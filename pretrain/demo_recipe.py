"""Everything that the demo is made of, at sizes for two CPU cores."""

from dataclasses import dataclass
from pathlib import Path

from reelscan.models.bert import BertConfig
from reelscan.models.tokenizer import Tokenizer
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.clip_training import ClipTrainingConfig, small_clip_vision
from reelscan.pretrain.demo_corpus.config import CorpusConfig, small_corpus
from reelscan.pretrain.pretrain_config import (
    DataConfig,
    LossWeights,
    MaskConfig,
    OptimizerConfig,
    PretrainConfig,
    RunConfig,
)

MAX_TEXT_TOKENS = 40
CACHE_BYTES = 1_500_000_000


@dataclass(frozen=True, kw_only=True)
class DemoRecipe:
    """How much the demo renders and trains."""

    corpus: CorpusConfig
    """The clips."""
    teacher: ClipTrainingConfig
    """The CLIP that the video encoder is aligned with."""
    masked_steps: int
    """Steps with most tokens hidden and all four losses."""
    unmasked_steps: int
    """Steps with all tokens visible, without the teacher."""
    batch_size: int
    """Clips a step."""
    seed: int
    """Of the weights and the order of the data."""

    def __post_init__(self) -> None:
        for name in ("masked_steps", "unmasked_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")
        if not 2 <= self.batch_size <= self.corpus.train_videos:
            raise ValueError(
                f"batch_size is {self.batch_size}; give 2 to {self.corpus.train_videos} clips"
            )


def standard_demo(*, seed: int) -> DemoRecipe:
    """Learns to search in a few minutes."""
    return DemoRecipe(
        corpus=small_corpus(seed=seed),
        teacher=ClipTrainingConfig(vision=small_clip_vision(), steps=300, seed=seed),
        masked_steps=400,
        unmasked_steps=500,
        batch_size=64,
        seed=seed,
    )


def smoke_demo(*, seed: int) -> DemoRecipe:
    """Runs every part in seconds; learns nothing worth searching with."""
    return DemoRecipe(
        corpus=small_corpus(seed=seed, train_videos=48, test_videos=12),
        teacher=ClipTrainingConfig(vision=small_clip_vision(), steps=2, batch_size=16, seed=seed),
        masked_steps=3,
        unmasked_steps=2,
        batch_size=8,
        seed=seed,
    )


def masked_stage(
    recipe: DemoRecipe, *, shards: Path, teacher: Path, vocabulary: Path
) -> PretrainConfig:
    """The second published stage at demo size: what the teacher looks at stays visible.

    Matching and masked language are left out: in minutes they cost more steps than they teach.
    """
    return PretrainConfig(
        model=_model(Tokenizer.from_file(vocabulary).vocab_size),
        data=_data(recipe, shards, vocabulary),
        losses=LossWeights(matching=0.0, masked_language=0.0),
        mask=MaskConfig(kind="attention", ratio=0.5),
        optimizer=OptimizerConfig(learning_rate=2e-3, betas=(0.9, 0.98)),
        run=_run(recipe),
        steps=recipe.masked_steps,
        teacher=teacher,
    )


def unmasked_stage(
    recipe: DemoRecipe, *, shards: Path, initial_model: Path, vocabulary: Path
) -> PretrainConfig:
    """The third published stage at demo size."""
    return PretrainConfig(
        model=_model(Tokenizer.from_file(vocabulary).vocab_size),
        data=_data(recipe, shards, vocabulary),
        losses=LossWeights(alignment=0.0, matching=0.0, masked_language=0.0),
        mask=MaskConfig(kind="none", ratio=0.0),
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.98)),
        run=_run(recipe),
        steps=recipe.unmasked_steps,
        initial_model=initial_model,
    )


def _model(vocab_size: int) -> VideoTextConfig:
    teacher, width = small_clip_vision(), 96
    return VideoTextConfig(
        vision=VideoMambaConfig(
            image_size=teacher.image_size,
            patch_size=teacher.patch_size,
            frames=8,
            depth=2,
            width=width,
            state_size=8,
            alignment_width=teacher.output_dim,
            position_init="sincos",
            last_alignment_before_mixer=False,
        ),
        text=BertConfig(
            vocab_size=vocab_size,
            hidden_size=96,
            num_hidden_layers=3,
            fusion_layer=2,
            encoder_width=width,
            num_attention_heads=4,
            intermediate_size=192,
            max_position_embeddings=MAX_TEXT_TOKENS,
            # The corpus is learned in a few epochs: there is nothing to regularise.
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initializer_range=0.04,
        ),
        embed_dim=128,
        matching_trained=False,
    )


def _data(recipe: DemoRecipe, shards: Path, vocabulary: Path) -> DataConfig:
    # No crops and no flips: captions tell directions, and objects come near the border.
    return DataConfig(
        shards=(shards,),
        batch_size=recipe.batch_size,
        cache_bytes=CACHE_BYTES,
        sampling="middle",
        crop_scale=(1.0, 1.0),
        max_text_tokens=MAX_TEXT_TOKENS,
        vocabulary=vocabulary,
    )


def _run(recipe: DemoRecipe) -> RunConfig:
    return RunConfig(device="cpu", seed=recipe.seed, checkpoint_every=200, keep_checkpoints=1)
