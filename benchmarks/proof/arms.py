"""The video-text models that are compared; all train through the same losses.

Axes: B clips, T frames, H x W pixels, N patch tokens of a clip, N_vis those not masked, C width,
K alignment layers, E alignment width.
"""

import torch
from benchmarks.baselines import VideoViT
from benchmarks.proof.recipe import Recipe
from torch import Tensor, nn

from reelscan.models.alignment_decoder import AlignmentDecoder
from reelscan.models.pooling import pool_tokens
from reelscan.models.positions import SHORT_AXIS_BASE, sincos_grid, sincos_table
from reelscan.models.video_text import VideoTextConfig, VideoTextModel
from reelscan.models.videomamba import POSITION_AMPLITUDE, VisionOutput
from reelscan.models.videomamba_config import VideoMambaConfig


def build_arm(recipe: Recipe, config: VideoTextConfig) -> VideoTextModel:
    """The model of a recipe, freshly drawn from its seed."""
    torch.manual_seed(recipe.seed)
    if recipe.arm == "frames":
        return FrameAverage(config)
    model = VideoTextModel(config)
    if recipe.arm == "vit":
        model.vision_encoder = ViTEncoder(config.vision)  # type: ignore[assignment]
    return model


class FrameAverage(VideoTextModel):
    """Reads every frame as an image of its own; nothing of the order of frames is left."""

    def encode_vision(
        self, clips: Tensor, mask: Tensor | None = None, *, keep_temporal: bool = True
    ) -> VisionOutput:
        """As `VideoTextModel.encode_vision`; the mask hides as many tokens in every frame."""
        batch, frames = clips.shape[:2]
        if mask is not None:
            hidden = mask[:, 1:].reshape(batch * frames, -1)
            mask = torch.cat([hidden.new_zeros(len(hidden), 1), hidden], dim=1)
        seen: VisionOutput = self.vision_encoder(clips.flatten(0, 1).unsqueeze(1), mask=mask)
        pooled = seen.pooled.view(batch, frames, -1)
        return VisionOutput(
            tokens=seen.tokens.reshape(batch, -1, seen.tokens.shape[-1]),
            class_token=seen.class_token.view(batch, frames, -1).mean(1),
            pooled=pooled if keep_temporal else pooled.mean(1, keepdim=True),
            alignment=None if seen.alignment is None else _joined(seen.alignment, batch, frames),
        )


def _joined(alignment: Tensor, batch: int, frames: int) -> Tensor:
    """[K, B * T, 1 + n, E] -> [K, B, 1 + T * n, E], the class tokens averaged."""
    layers, _, _, width = alignment.shape
    apart = alignment.view(layers, batch, frames, -1, width)
    return torch.cat([apart[:, :, :, 0].mean(2, keepdim=True), apart[:, :, :, 1:].flatten(2, 3)], 2)


class ViTEncoder(nn.Module):
    """`VideoViT` with what training asks of a video encoder; aligned after its last block."""

    alignment_positions: Tensor

    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        if config.alignment_layers > 1:
            raise ValueError("the ViT is aligned after its last block alone; give 1 layer")
        self.config = config
        frames, rows, columns = config.grid
        self.vit = VideoViT(
            config.width,
            frames=frames,
            side=config.image_size,
            patch=config.patch_size,
            depth=max(1, round(config.depth * 2 / 3)),
        )
        self.pool_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.clip_decoder = nn.ModuleList(
            AlignmentDecoder(config.width, config.alignment_width)
            for _ in range(config.alignment_layers)
        )
        table = sincos_table(1 + frames * rows * columns, config.width).unsqueeze(0)
        self.register_buffer("alignment_positions", table, persistent=False)
        places = sincos_grid(rows, columns, config.width)
        times = sincos_table(frames, config.width, base=SHORT_AXIS_BASE)
        with torch.no_grad():
            placed = (times[:, None] + places[None]).flatten(0, 1)
            self.vit.positions[0, 1:] = POSITION_AMPLITUDE * placed

    def use_cuda_graphs(self, wanted: bool = True) -> None:
        """Attention keeps the GPU busy without."""

    def forward(
        self, clips: Tensor, *, mask: Tensor | None = None, keep_temporal: bool = True
    ) -> VisionOutput:
        """As of `VideoMamba.forward`."""
        tokens = self.vit(clips, None if mask is None else ~mask[:, 1:])
        cls, patches = tokens[:, 0], tokens[:, 1:]
        pooled = pool_tokens(
            cls, patches, pooling="cls+avg", frames=clips.shape[1], keep_temporal=keep_temporal
        )
        return VisionOutput(
            tokens=patches,
            class_token=cls,
            pooled=self.pool_norm(pooled),
            alignment=self._align(tokens, mask),
        )

    def _align(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        if not self.clip_decoder:
            return None
        places = self.alignment_positions
        if mask is not None:
            places = places.expand(len(mask), -1, -1)[~mask].view(*tokens.shape[:2], -1)
        return torch.stack([decoder(tokens, places) for decoder in self.clip_decoder])
