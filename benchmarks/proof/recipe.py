"""What a run of the proof trains, and how: small frozen values that travel with its log."""

from dataclasses import dataclass
from typing import Literal, get_args

from reelscan.models.bert import BertConfig
from reelscan.models.scan_order import ScanOrder
from reelscan.models.video_text import VideoTextConfig
from reelscan.models.videomamba_config import VideoMambaConfig
from reelscan.pretrain.pretrain_config import LossWeights, MaskConfig, MaskKind

Arm = Literal["videomamba", "frames", "vit"]
ARMS: tuple[Arm, ...] = get_args(Arm)
PATCH, TEACHER_WIDTH = 16, 128


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large both encoders are."""

    image_size: int
    """Side in pixels to which the 96 px of the clips are brought."""
    depth: int
    """Blocks of the video encoder; a ViT gets two thirds as many, about as many parameters."""
    width: int
    """Of the video encoder."""
    text_width: int
    text_layers: int
    embed_dim: int


SIZES = {
    # 24 blocks of width 192, as VideoMamba-Ti; 16 or 36 patches a frame.
    "ti": Size(image_size=64, depth=24, width=192, text_width=192, text_layers=4, embed_dim=256),
    "ti96": Size(image_size=96, depth=24, width=192, text_width=192, text_layers=4, embed_dim=256),
    "half": Size(image_size=64, depth=12, width=192, text_width=192, text_layers=4, embed_dim=256),
    "reduced": Size(
        image_size=64, depth=4, width=128, text_width=128, text_layers=3, embed_dim=128
    ),
    "smaller": Size(image_size=64, depth=2, width=64, text_width=128, text_layers=3, embed_dim=128),
    "tiny": Size(image_size=32, depth=3, width=64, text_width=32, text_layers=2, embed_dim=32),
}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run; two runs of the same recipe do the same."""

    arm: Arm = "videomamba"
    """frames: the same encoder reads frames one by one, and their vectors are averaged."""
    size: str = "ti"
    """One of `SIZES`."""
    seed: int = 0
    """Of weights and draws; the clips are the same for all."""
    steps: int = 5000
    batch: int = 256
    """Clips a step."""
    learning_rate: float = 1e-3
    """Peak."""
    masked_fraction: float = 0.3
    """Share of the steps that hides tokens, before the rest sees all, as published."""
    mask: MaskKind = "attention"
    mask_ratio: float = 0.5
    alignment: float = 1.0
    """Weight of the alignment with the teacher in the masked steps."""
    alignment_layers: int = 1
    scan_order: ScanOrder = "spatial-first"
    """In which order the tokens of a clip are scanned."""
    distillation: float = 0.0
    """Weight of following a smaller encoder in the masked steps."""
    twins: bool = True
    """Whether a batch holds clips beside the same frames in another order."""
    each_frame: bool = True
    """See `LossOptions`."""

    def __post_init__(self) -> None:
        if self.arm not in ARMS or self.size not in SIZES:
            raise ValueError(
                f"arm is {self.arm!r} and size {self.size!r}; "
                f"choose from {', '.join(ARMS)} and from {', '.join(SIZES)}"
            )
        if self.batch < 2 or self.batch % 2 or self.steps < 1:
            raise ValueError(f"batch is {self.batch}, steps {self.steps}; give even and at least 1")
        if not 0.0 <= self.masked_fraction <= 1.0:
            raise ValueError(f"masked_fraction is {self.masked_fraction}; give one in [0, 1]")

    @property
    def masked_steps(self) -> int:
        """The first steps, in which tokens are hidden."""
        return round(self.masked_fraction * self.steps)

    @property
    def needs_teacher(self) -> bool:
        """Whether frames are shown to a teacher."""
        return self.masked_steps > 0 and (self.alignment > 0 or self.mask == "attention")

    def losses_at(self, step: int) -> LossWeights:
        """Matching and masked language are left out: in minutes they cost more than they teach."""
        masked = step < self.masked_steps
        return LossWeights(
            alignment=self.alignment if masked else 0.0,
            contrastive=1.0,
            matching=0.0,
            masked_language=0.0,
            distillation=self.distillation if masked else 0.0,
        )

    def mask_at(self, step: int) -> MaskConfig:
        """What the encoder does not see."""
        if step >= self.masked_steps or self.mask == "none":
            return MaskConfig(kind="none", ratio=0.0)
        return MaskConfig(kind=self.mask, ratio=self.mask_ratio)

    def model(self, *, vocab_size: int, frames: int, max_text_tokens: int) -> VideoTextConfig:
        """The configuration of both encoders."""
        size = SIZES[self.size]
        return VideoTextConfig(
            vision=self.vision(frames=frames),
            text=BertConfig(
                vocab_size=vocab_size,
                hidden_size=size.text_width,
                num_hidden_layers=size.text_layers,
                fusion_layer=size.text_layers,
                encoder_width=size.width,
                num_attention_heads=4,
                intermediate_size=4 * size.text_width,
                max_position_embeddings=max_text_tokens,
                # Few epochs, and every clip in several versions: nothing to regularise.
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                initializer_range=0.04,
            ),
            embed_dim=size.embed_dim,
            matching_trained=False,
        )

    def vision(self, *, frames: int) -> VideoMambaConfig:
        """The configuration of the video encoder."""
        size = SIZES[self.size]
        return VideoMambaConfig(
            image_size=size.image_size,
            patch_size=PATCH,
            frames=frames,
            depth=size.depth,
            width=size.width,
            alignment_layers=self.alignment_layers if self.needs_teacher else 0,
            alignment_width=TEACHER_WIDTH,
            position_init="sincos",
            last_alignment_before_mixer=False,
            scan_order=self.scan_order,
        )
