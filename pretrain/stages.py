"""What a training run is made of, and the published stages as presets.

Stages build on each other: `video_only_masked` (the encoder learns to see like a CLIP teacher),
`video_text_masked` (captions join), `unmasked` (a short epoch with all tokens visible).
"""

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from reelscan.models.bert import BertConfig
from reelscan.models.video_text import VideoTextConfig, video_text_middle
from reelscan.models.videomamba_config import VideoMambaConfig

MaskKind = Literal["none", "random", "tube", "clip_row", "frame_row", "attention"]
MASK_KINDS: tuple[MaskKind, ...] = (
    "none",
    "random",
    "tube",
    "clip_row",
    "frame_row",
    "attention",
)


@dataclass(frozen=True, kw_only=True)
class MaskConfig:
    """Which tokens of a clip the encoder does not get to see."""

    kind: MaskKind = "attention"
    """none, random (anywhere), tube (same places in each frame), clip_row and frame_row (whole
    rows), attention (keeps what the teacher looks at). Pooling is per frame for none and tube only.
    """
    ratio: float = 0.8
    """Fraction of the tokens to hide, at least 0 and below 1."""

    def __post_init__(self) -> None:
        if self.kind not in MASK_KINDS:
            raise ValueError(f"mask.kind is {self.kind!r}; choose one of {', '.join(MASK_KINDS)}")
        if not 0.0 <= self.ratio < 1.0:
            raise ValueError(f"mask.ratio is {self.ratio}; give a fraction in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the four losses in their sum; 0 leaves a loss and its computation out."""

    alignment: float = 1.0
    """Follow the teacher's features, token by token. Needs a teacher."""
    contrastive: float = 1.0
    """Tell the own caption from those of the other clips of all processes."""
    matching: float = 1.0
    """Judge whether clip and caption belong together, against hard negatives of this process."""
    masked_language: float = 1.0
    """Fill in hidden words of the caption from the clip."""

    def __post_init__(self) -> None:
        weights = (self.alignment, self.contrastive, self.matching, self.masked_language)
        if not all(math.isfinite(weight) and weight >= 0.0 for weight in weights):
            raise ValueError(f"loss weights are {weights}; give numbers of at least 0")
        if not any(weights):
            raise ValueError("all loss weights are 0, so nothing would be learned; raise one")

    @property
    def need_text(self) -> bool:
        """Whether any loss reads captions."""
        return self.contrastive > 0 or self.matching > 0 or self.masked_language > 0


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The clips and captions to learn from."""

    shards: tuple[Path, ...] = ()
    """Index files (NAME.index.json) of the shard sets to read."""
    batch_size: int = 64
    """Clips a step in each process."""
    workers: int = 0
    """Loader processes beside each training process; 0 decodes in the training process."""
    crop_scale: tuple[float, float] = (0.5, 1.0)
    """Smallest and largest part of the frame area that a random crop takes; 1 1 for no crop."""
    crop_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Smallest and largest width / height of a random crop."""
    flip: bool = False
    """Mirror half of the clips. Falsifies captions that say left or right."""
    max_text_tokens: int = 32
    """Tokens of a caption, [CLS] and [SEP] included; longer ones are cut."""
    vocabulary: Path | None = None
    """WordPiece vocabulary, one token a line; none: that of bert-base-uncased."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError(
                f"batch_size is {self.batch_size} and workers is {self.workers}; "
                "give at least 1 clip and at least 0 workers"
            )
        low, high = self.crop_scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"crop_scale is {self.crop_scale}; give 0 < smallest <= largest <= 1")
        low, high = self.crop_ratio
        if not 0.0 < low <= high:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; give 0 < smallest <= largest")
        if self.max_text_tokens < 3:
            raise ValueError(f"max_text_tokens is {self.max_text_tokens}; give at least 3")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW, and its learning rate over the run."""

    learning_rate: float = 4e-4
    """Peak learning rate, for the global batch as it is (nothing is scaled behind your back)."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of AdamW's running mean and square."""
    weight_decay: float = 0.05
    """Pull of matrices towards zero; biases, norms, embeddings and state matrices are spared."""
    published_decay: bool = False
    """Decay all that the published code decays: state matrices, embeddings, temperature too."""
    warmup_fraction: float = 0.1
    """Part of the run over which the learning rate rises linearly."""
    final_learning_rate_fraction: float = 0.01
    """Floor of the learning rate, as a fraction of its peak."""
    clip_gradient_norm: float | None = 1.0
    """Longest gradient; longer ones are shortened to it. None: never (as published)."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise ValueError(f"learning_rate is {self.learning_rate}; give a number above 0")
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; give two numbers in [0, 1)")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}; give at least 0")
        for name in ("warmup_fraction", "final_learning_rate_fraction"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} is {getattr(self, name)}; give a fraction in [0, 1]")
        if self.clip_gradient_norm is not None and not self.clip_gradient_norm > 0:
            raise ValueError(
                f"clip_gradient_norm is {self.clip_gradient_norm}; give a number above 0, or None"
            )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where and how a run computes, and what it writes how often."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes a GPU if there is one."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of products in the networks (weights, sums and losses stay fp32); auto: bf16 on a GPU."""
    seed: int = 0
    """Of the initial weights, the order of the data and everything random in a step."""
    checkpoint_every: int = 1000
    """Steps between two checkpoints."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept."""
    log_every: int = 10
    """Steps between two lines of the metrics file."""
    tensorboard: bool = True
    """Write the metrics for TensorBoard as well."""
    max_skipped_in_a_row: int = 20
    """Steps in a row without a finite loss and gradient after which the run gives up."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; choose auto, cpu or cuda")
        if self.precision not in ("auto", "fp32", "bf16"):
            raise ValueError(f"precision is {self.precision!r}; choose auto, fp32 or bf16")
        for name in ("checkpoint_every", "keep_checkpoints", "log_every", "max_skipped_in_a_row"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """One stage of training."""

    model: VideoTextConfig
    """The two encoders; frames and frame size of the clips follow from it."""
    data: DataConfig = field(default_factory=DataConfig)
    """What is learned from."""
    losses: LossWeights = field(default_factory=LossWeights)
    """What is learned."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """What is hidden."""
    masked_language_probability: float = 0.5
    """Part of the caption tokens that the masked language loss asks for."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How the weights move."""
    run: RunConfig = field(default_factory=RunConfig)
    """Device, seed, and what is written when."""
    epochs: int | None = None
    """Length of the run in passes over the data; give this or steps."""
    steps: int | None = None
    """Length of the run in steps; give this or epochs."""
    teacher: Path | None = None
    """Directory of the CLIP vision tower to align with."""
    initial_model: Path | None = None
    """Model directory (or weight file) of an earlier stage to start from; none: random weights."""
    initial_part: Literal["everything", "vision_encoder"] = "everything"
    """What is taken from the initial model."""
    initial_text_encoder: Path | None = None
    """Weight file of a Hugging Face BERT to start the text encoder from."""

    def __post_init__(self) -> None:
        lengths = [length for length in (self.epochs, self.steps) if length is not None]
        if len(lengths) != 1 or lengths[0] < 1:
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}; give one of them, at least 1"
            )
        if self.teacher is None and self.losses.alignment > 0:
            raise ValueError(
                f"losses.alignment is {self.losses.alignment}, but there is no teacher; "
                "give teacher, or set losses.alignment to 0"
            )
        if self.teacher is None and self.mask.kind == "attention":
            raise ValueError(
                "mask.kind is 'attention', but there is no teacher whose attention could be used; "
                "give teacher, or choose another mask"
            )
        if self.losses.alignment > 0 and self.model.vision.alignment_layers == 0:
            raise ValueError(
                "losses.alignment is on, but model.vision.alignment_layers is 0; give 1 or more"
            )
        if self.data.batch_size < 2 and (self.losses.contrastive or self.losses.matching):
            raise ValueError(
                f"batch_size is {self.data.batch_size}, but contrastive and matching losses "
                "compare clips with each other; give at least 2"
            )
        if not 0.0 < self.masked_language_probability <= 1.0:
            raise ValueError(
                f"masked_language_probability is {self.masked_language_probability}; "
                "give a fraction above 0, at most 1"
            )
        if self.initial_part not in ("everything", "vision_encoder"):
            raise ValueError(
                f"initial_part is {self.initial_part!r}; choose everything or vision_encoder"
            )


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
        data=DataConfig(shards=shards, batch_size=batch_size, crop_scale=(0.43, 1.0), flip=True),
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
        data=DataConfig(shards=shards, batch_size=batch_size, flip=True),
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
        data=DataConfig(shards=shards, batch_size=batch_size, flip=True),
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
        data=DataConfig(shards=shards, batch_size=64, vocabulary=vocabulary, crop_scale=(0.8, 1.0)),
        losses=LossWeights(alignment=1.0 if has_teacher else 0.0),
        mask=MaskConfig(kind="tube", ratio=0.5) if has_teacher else MaskConfig(kind="none"),
        optimizer=OptimizerConfig(learning_rate=1e-3),
        run=RunConfig(seed=seed, log_every=1, checkpoint_every=100),
        steps=steps,
        teacher=teacher,
    )


def _with_drop_path(model: VideoTextConfig, rate: float) -> VideoTextConfig:
    return replace(model, vision=replace(model.vision, drop_path_rate=rate))
