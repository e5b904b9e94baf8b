"""What a training run is made of: every setting, its unit, and what is allowed."""

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from reelscan.models.video_text import VideoTextConfig
from reelscan.pretrain.loss_options import LossOptions
from reelscan.pretrain.published import published_options
from reelscan.pretrain.step_options import GuardConfig, ParallelConfig

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
    """Fraction of a video's tokens to hide, at least 0 and below 1."""
    image_ratio: float = 0.5
    """Fraction of an image's tokens to hide, at least 0 and below 1."""

    def __post_init__(self) -> None:
        if self.kind not in MASK_KINDS:
            raise ValueError(f"mask.kind is {self.kind!r}; choose one of {', '.join(MASK_KINDS)}")
        for name in ("ratio", "image_ratio"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"mask.{name} is {getattr(self, name)}; give a fraction in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """Factors of the losses in their sum; 0 leaves a loss and its computation out."""

    alignment: float = 1.0
    """Follow the teacher's features, token by token. Needs a teacher."""
    contrastive: float = 1.0
    """Tell the own caption from those of the other clips of all processes."""
    matching: float = 1.0
    """Judge whether clip and caption belong together, against hard negatives of this process."""
    masked_language: float = 1.0
    """Fill in hidden words of the caption from the clip."""
    distillation: float = 0.0
    """Follow the final features of a smaller video encoder. Needs smaller_encoder."""

    def __post_init__(self) -> None:
        weights = tuple(getattr(self, field.name) for field in fields(self))
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

    shards: tuple[str | Path, ...] = ()
    """Index files (NAME.index.json) of sets of captioned videos: paths, or addresses that start
    with http://, https://, s3:// or gs://."""
    image_shards: tuple[str | Path, ...] = ()
    """The same for captioned images; a batch of them is clips of one frame."""
    weights: tuple[float, ...] = ()
    """How often an epoch passes through each of `shards`, 0.5 for half of it; none: once each."""
    image_weights: tuple[float, ...] = ()
    """The same for `image_shards`."""
    taught: tuple[Path, ...] = ()
    """For each of `shards` a folder of `reelscan shards teach`; the teacher then need not be run.
    Frames, crops and flips must not be random."""
    image_taught: tuple[Path, ...] = ()
    """The same for `image_shards`."""
    shuffle_shards: int = 16
    """Shards of a set, drawn at random, whose samples are shuffled together; 0: no shuffling."""
    shard_cache: Path | None = None
    """Folder on a local disk for copies of remote shards; none: each sample is fetched alone."""
    shard_cache_bytes: int = 100_000_000_000
    """Most bytes that folder may take. With room for twice the shards that are shuffled together,
    the next ones are fetched ahead."""
    shard_retries: int = 3
    """Tries after the first to read a shard, with pauses from half a second on; then it is left
    alone until the next pass over its set."""
    max_unreadable_fraction: float = 0.05
    """Part of the samples that may be unreadable (others are taken); above, the run stops."""
    batch_size: int = 64
    """Clips a step in each process."""
    workers: int = 0
    """Loader processes beside each training process; 0 decodes in the training process."""
    cache_bytes: int = 0
    """Decoded clips kept in memory by each loader process, up to so many bytes. Their frames are
    then chosen once for all epochs."""
    sampling: Literal["random", "middle"] = "random"
    """Which frame of each of equal parts of a video is taken."""
    decode_size: int | None = None
    """Side in pixels of the square frames that crops are taken from; none: the model's."""
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
    sample_ids: Literal["unique", "per_corpus"] = "unique"
    """What tells samples apart. per_corpus (as published) only looks at the number in the set, so
    that samples of different sets become each other's positives."""

    def __post_init__(self) -> None:
        self._check_corpora()
        self._check_taught()
        if self.batch_size < 1 or self.workers < 0:
            raise ValueError(
                f"batch_size is {self.batch_size} and workers is {self.workers}; "
                "give at least 1 clip and at least 0 workers"
            )
        if self.cache_bytes < 0 or (self.decode_size is not None and self.decode_size < 1):
            raise ValueError(
                f"cache_bytes is {self.cache_bytes} and decode_size is {self.decode_size}; "
                "give at least 0 bytes and at least 1 pixel"
            )
        if self.sampling not in ("random", "middle"):
            raise ValueError(f"sampling is {self.sampling!r}; choose random or middle")
        if self.sample_ids not in ("unique", "per_corpus"):
            raise ValueError(f"sample_ids is {self.sample_ids!r}; choose unique or per_corpus")
        low, high = self.crop_scale
        if not 0.0 < low <= high <= 1.0:
            raise ValueError(f"crop_scale is {self.crop_scale}; give 0 < smallest <= largest <= 1")
        low, high = self.crop_ratio
        if not 0.0 < low <= high:
            raise ValueError(f"crop_ratio is {self.crop_ratio}; give 0 < smallest <= largest")
        if self.max_text_tokens < 3:
            raise ValueError(f"max_text_tokens is {self.max_text_tokens}; give at least 3")

    def _check_taught(self) -> None:
        for name, shards, folders in (
            ("taught", self.shards, self.taught),
            ("image_taught", self.image_shards, self.image_taught),
        ):
            if (self.taught or self.image_taught) and len(folders) != len(shards):
                raise ValueError(
                    f"{name} has {len(folders)} folders for {len(shards)} sets; give one each, or "
                    "none at all"
                )
        if self.taught or self.image_taught:
            fixed = (self.sampling, self.crop_scale, self.flip, self.decode_size)
            if fixed != ("middle", (1.0, 1.0), False, None):
                raise ValueError(
                    "a teacher's stored features are those of unchanged clips: set sampling to "
                    "middle, crop_scale to 1 1, flip to False and decode_size to None, or give a "
                    f"teacher instead of taught (they are {fixed})"
                )

    def _check_corpora(self) -> None:
        for name, shards, weights in (
            ("weights", self.shards, self.weights),
            ("image_weights", self.image_shards, self.image_weights),
        ):
            if weights and len(weights) != len(shards):
                raise ValueError(
                    f"{name} has {len(weights)} numbers for {len(shards)} sets; give one each, or "
                    "none"
                )
            if not all(math.isfinite(weight) and weight > 0 for weight in weights):
                raise ValueError(f"{name} is {weights}; give numbers above 0")
        for name, least in (("shuffle_shards", 0), ("shard_retries", 0), ("shard_cache_bytes", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; give at least {least}")
        if not 0.0 <= self.max_unreadable_fraction <= 1.0:
            raise ValueError(
                f"max_unreadable_fraction is {self.max_unreadable_fraction}; "
                "give a fraction in [0, 1]"
            )


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
    vision_layer_decay: float = 1.0
    """For fine-tuning a trained video encoder: the learning rate of each of its blocks over that of
    the block behind it, patches and positions as a block before the first; 1: all alike."""
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
        if not 0.0 < self.vision_layer_decay <= 1.0:
            raise ValueError(
                f"vision_layer_decay is {self.vision_layer_decay}; give a number above 0, at most 1"
            )
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
    precision: Literal["auto", "fp32", "bf16", "bf16_weights"] = "auto"
    """Of products in the networks (weights, sums and losses stay fp32); auto: bf16 on a GPU.
    bf16_weights (as published): every weight is rounded too, state matrices and temperature
    included; only the optimiser keeps them in fp32."""
    scan: Literal["auto", "cuda", "fused", "chunked", "mamba_ssm"] = "auto"
    """What computes the selective scan; auto: the fastest that runs on the device. mamba_ssm: the
    published GPU kernels, if installed."""
    cuda_graphs: bool = False
    """On a GPU, replay the video encoder's blocks as CUDA graphs: saves the host's work at every
    launch, a third of a step where most tokens are masked; for steps of one shape."""
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
    wandb: str | None = None
    """Project at Weights & Biases to send the metrics to as well; needs wandb."""
    held_out_every: int = 1000
    """Steps between two measurements on held-out videos, if there are any (--held-out)."""

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise ValueError(f"device is {self.device!r}; choose auto, cpu or cuda")
        if self.precision not in ("auto", "fp32", "bf16", "bf16_weights"):
            raise ValueError(
                f"precision is {self.precision!r}; choose auto, fp32, bf16 or bf16_weights"
            )
        if self.scan not in ("auto", "cuda", "fused", "chunked", "mamba_ssm"):
            raise ValueError(
                f"scan is {self.scan!r}; choose auto, cuda, fused, chunked or mamba_ssm"
            )
        for name in ("checkpoint_every", "keep_checkpoints", "log_every", "held_out_every"):
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
    loss_options: LossOptions = field(default_factory=LossOptions)
    """How it is measured."""
    mask: MaskConfig = field(default_factory=MaskConfig)
    """What is hidden."""
    masked_language_probability: float = 0.5
    """Part of the caption tokens that the masked language loss asks for."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """How the weights move."""
    run: RunConfig = field(default_factory=RunConfig)
    """Device, seed, and what is written when."""
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    """How a step is spread over processes and memory."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """When a step is skipped."""
    epochs: int | None = None
    """Length of the run in passes over the data; give this or steps."""
    steps: int | None = None
    """Length of the run in steps; give this or epochs."""
    teacher: Path | None = None
    """Weight file of the CLIP vision tower to align with (`clip_training.save_teacher`)."""
    smaller_encoder: Path | None = None
    """Model directory or checkpoint of a trained smaller model, whose video encoder
    losses.distillation follows (self-distillation)."""
    initial_model: Path | None = None
    """Model directory, checkpoint or weight file to start from; none: random weights."""
    initial_part: Literal["everything", "vision_encoder"] = "everything"
    """What is taken from the initial model."""
    initial_text_encoder: Path | None = None
    """Weight file of a Hugging Face BERT to start the text encoder from."""
    published: bool = False
    """Train exactly as published, defects included: sets every option that docs/differences.md
    lists to its published value, whatever it was."""

    def __post_init__(self) -> None:
        if self.published:
            for name, value in published_options(self).items():
                object.__setattr__(self, name, value)
        lengths = [length for length in (self.epochs, self.steps) if length is not None]
        if len(lengths) != 1 or lengths[0] < 1:
            raise ValueError(
                f"epochs is {self.epochs} and steps is {self.steps}; give one of them, at least 1"
            )
        is_taught = self.teacher is not None or bool(self.data.taught or self.data.image_taught)
        if not is_taught and self.losses.alignment > 0:
            raise ValueError(
                f"losses.alignment is {self.losses.alignment}, but there is no teacher; "
                "give teacher or data.taught, or set losses.alignment to 0"
            )
        if not is_taught and self.mask.kind == "attention":
            raise ValueError(
                "mask.kind is 'attention', but there is no teacher whose attention could be used; "
                "give teacher or data.taught, or choose another mask"
            )
        if self.losses.alignment > 0 and self.model.vision.alignment_layers == 0:
            raise ValueError(
                "losses.alignment is on, but model.vision.alignment_layers is 0; give 1 or more"
            )
        if (self.losses.distillation > 0) != (self.smaller_encoder is not None):
            raise ValueError(
                f"losses.distillation is {self.losses.distillation} and smaller_encoder is "
                f"{self.smaller_encoder}; give both, or neither"
            )
        self._check_batch()
        if not 0.0 < self.masked_language_probability <= 1.0:
            raise ValueError(
                f"masked_language_probability is {self.masked_language_probability}; "
                "give a fraction above 0, at most 1"
            )
        if self.initial_part not in ("everything", "vision_encoder"):
            raise ValueError(
                f"initial_part is {self.initial_part!r}; choose everything or vision_encoder"
            )

    def _check_batch(self) -> None:
        size, parts = self.data.batch_size, self.parallel.accumulate
        if self.run.precision == "bf16_weights" and (
            parts > 1 or self.parallel.sharding == "fully_sharded"
        ):
            raise ValueError(
                f"precision bf16_weights (as published) was made for whole batches on replicated "
                f"weights, but parallel.accumulate is {parts} and parallel.sharding "
                f"{self.parallel.sharding}; choose 1 and replicated, or precision bf16"
            )
        if self.run.cuda_graphs and (
            self.run.precision == "bf16_weights" or self.parallel.sharding == "fully_sharded"
        ):
            raise ValueError(
                f"cuda_graphs needs weights that stay where they are, but precision is "
                f"{self.run.precision} and parallel.sharding {self.parallel.sharding}; choose bf16 "
                "and replicated, or no cuda_graphs"
            )
        if size % parts:
            raise ValueError(
                f"data.batch_size is {size}, which parallel.accumulate = {parts} does not divide"
            )
        compares = self.losses.contrastive or self.losses.matching
        if size < 2 and compares:
            raise ValueError(
                f"batch_size is {size}, but contrastive and matching losses "
                "compare clips with each other; give at least 2"
            )
        if size // parts < 2 and self.losses.matching:
            raise ValueError(
                f"parallel.accumulate = {parts} leaves {size // parts} clip a part, but the "
                "matching loss needs negatives in it; give a smaller number"
            )
