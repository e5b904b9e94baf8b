"""What shapes a VideoMamba encoder, and the published sizes.

Axes: C model width, S states, E alignment width, K alignment layers.
"""

from dataclasses import dataclass
from typing import Literal, get_args

from reelscan.models.scan_order import ScanOrder

Pooling = Literal["cls", "cls+avg", "cls_cat_avg", "avg"]
POOLINGS: tuple[Pooling, ...] = ("cls", "cls+avg", "cls_cat_avg", "avg")


@dataclass(frozen=True, kw_only=True)
class VideoMambaConfig:
    """Shape, pooling and alignment of an encoder; the defaults are the published "middle"."""

    image_size: int = 224
    """Height and width of a frame, in pixels; a multiple of the patch size."""

    patch_size: int = 16
    """Height and width of a patch, in pixels."""

    frames: int = 8
    """Frames of a clip, a multiple of the tubelet size; a single frame (an image) is taken too."""

    tubelet_size: int = 1
    """Frames that one token covers."""

    depth: int = 32
    """Number of bidirectional blocks."""

    width: int = 576
    """Model width C."""

    state_size: int = 16
    """States S that every channel carries."""

    conv_width: int = 4
    """Taps of the causal depthwise convolution, in tokens."""

    expand: int = 2
    """Inner channels of a mixer for every channel of the model width."""

    drop_path_rate: float = 0.0
    """Chance that training skips the last block; it rises linearly from 0 at the first."""

    norm: Literal["rms", "layer"] = "rms"
    """Normalisation before every mixer and after the last block."""

    norm_epsilon: float = 1e-5
    """Added to the variance in the normalisations of the blocks."""

    pooling: Pooling = "cls+avg"
    """The pooled vector: class token, its sum with the mean of the patches, both, or the mean."""

    alignment_layers: int = 1
    """Number K of layers, counted from the last, that are aligned with a teacher; 0 for none."""

    alignment_interval: int = 1
    """Distance between two aligned layers, in blocks."""

    alignment_width: int = 512
    """Width E of the teacher's features."""

    last_alignment_before_mixer: bool = True
    """As published (fused add-norm): the last layer's feature is the residual stream before the
    last mixer, so the last block learns nothing from alignment. False takes the stream after it."""

    published_init: bool = False
    """Published initialisation: the bias of the time steps starts at 0. False keeps Mamba's, where
    the steps start log-uniform between 0.001 and 0.1."""

    position_init: Literal["published", "sincos"] = "published"
    """Learned positions at the start: published (small noise, time 0), or fixed sin-cos tables as
    strong as the patches, from which motion is learned much sooner when training from scratch."""

    scan_order: ScanOrder = "spatial-first"
    """How blocks read the tokens: spatial-first, frame by frame, as published; temporal-first, each
    place of the frame through all times; hybrid, the two in turns."""

    checkpointed_blocks: int = 0
    """How many of the first blocks recompute their activations in the backward pass."""

    def __post_init__(self) -> None:
        self._check_counts()
        self._check_choices()
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}"
            )
        if self.frames % self.tubelet_size:
            raise ValueError(
                f"frames {self.frames} is not a multiple of tubelet_size {self.tubelet_size}"
            )
        deepest = (self.alignment_layers - 1) * self.alignment_interval
        if deepest >= self.depth:
            raise ValueError(
                f"alignment_layers {self.alignment_layers} at alignment_interval "
                f"{self.alignment_interval} reach below the first of {self.depth} blocks; "
                "take fewer layers or a smaller interval"
            )

    def _check_counts(self) -> None:
        for name in (
            *("image_size", "patch_size", "frames", "tubelet_size", "depth", "width", "state_size"),
            *("conv_width", "expand", "alignment_interval", "alignment_width"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        for name in ("alignment_layers", "checkpointed_blocks"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def _check_choices(self) -> None:
        if not 0.0 <= self.drop_path_rate < 1.0:
            raise ValueError(f"drop_path_rate is {self.drop_path_rate}; it must lie in [0, 1)")
        if self.norm_epsilon <= 0.0:
            raise ValueError(f"norm_epsilon is {self.norm_epsilon}; it must be above 0")
        if self.position_init not in ("published", "sincos"):
            raise ValueError(
                f"position_init is {self.position_init!r}; choose 'published' or 'sincos'"
            )
        if self.scan_order not in get_args(ScanOrder):
            choices = ", ".join(get_args(ScanOrder))
            raise ValueError(f"scan_order is {self.scan_order!r}; choose one of {choices}")
        if self.position_init == "sincos" and self.width % 4:
            raise ValueError(f"width {self.width} is no multiple of 4, as sincos positions need")
        if self.norm not in ("rms", "layer"):
            raise ValueError(f"norm is {self.norm!r}; choose 'rms' or 'layer'")
        if self.pooling not in POOLINGS:
            raise ValueError(f"pooling is {self.pooling!r}; choose one of {', '.join(POOLINGS)}")

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens of a clip along time, height and width."""
        side = self.image_size // self.patch_size
        return self.frames // self.tubelet_size, side, side

    @property
    def aligned_blocks(self) -> tuple[int, ...]:
        """The blocks aligned with a teacher, shallow to deep."""
        steps = reversed(range(self.alignment_layers))
        return tuple(self.depth - 1 - step * self.alignment_interval for step in steps)


def videomamba_tiny() -> VideoMambaConfig:
    """24 blocks of width 192: 7 M parameters."""
    return VideoMambaConfig(depth=24, width=192)


def videomamba_small() -> VideoMambaConfig:
    """24 blocks of width 384: 26 M parameters."""
    return VideoMambaConfig(depth=24, width=384)


def videomamba_middle() -> VideoMambaConfig:
    """32 blocks of width 576: 74 M parameters; the encoder of the published video-text models."""
    return VideoMambaConfig(depth=32, width=576)


def videomamba_base() -> VideoMambaConfig:
    """24 blocks of width 768: 98 M parameters; published for images only."""
    return VideoMambaConfig(depth=24, width=768)
