"""VideoMamba: a video encoder of bidirectional state-space blocks, with the published names.

Source: Li et al., 2024. Axes: B clips, T frames, H x W pixels, N patch tokens, N_vis those not
masked, C model width, E alignment width, K alignment layers.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from reelscan.models.alignment_decoder import AlignmentDecoder
from reelscan.models.blocks import Block, Blocks, make_norm
from reelscan.models.norm import at_least_float32
from reelscan.models.patch_embedding import PatchEmbedding
from reelscan.models.pooling import pool_tokens
from reelscan.models.positions import SHORT_AXIS_BASE, sincos_grid, sincos_table
from reelscan.models.scan_order import temporal_places
from reelscan.models.videomamba_config import (
    VideoMambaConfig,
    videomamba_base,
    videomamba_middle,
    videomamba_small,
    videomamba_tiny,
)

__all__ = [
    "VideoMamba",
    "VideoMambaConfig",
    "VisionFeatures",
    "VisionOutput",
    "videomamba_base",
    "videomamba_middle",
    "videomamba_small",
    "videomamba_tiny",
]


@dataclass(frozen=True, kw_only=True)
class VisionFeatures:
    """The encoder's features before pooling and alignment."""

    tokens: Tensor
    """[B, 1 + N_vis, C]: class token, then visible patches, after the last normalisation."""

    aligned: tuple[Tensor, ...]
    """K streams [B, 1 + N_vis, C], shallow to deep."""


@dataclass(frozen=True, kw_only=True)
class VisionOutput:
    """What the encoder makes of clips."""

    tokens: Tensor
    """[B, N_vis, C]: the visible patch tokens, in order, without the class token."""

    class_token: Tensor
    """[B, C]: the class token after the last normalisation, which pooling reads."""

    pooled: Tensor
    """[B, T, C] with keep_temporal, else [B, 1, C]; `pool_tokens` tells the exceptions."""

    alignment: Tensor | None
    """[K, B, 1 + N_vis, E], class token first, not L2-normalised; None without such layers."""


POSITION_AMPLITUDE = 0.7
"""Of sin-cos starts: about the strength of the embedded patches."""


class VideoMamba(nn.Module):
    """Clips or images to tokens, pooled vectors, and features to align with a teacher."""

    alignment_positions: Tensor

    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        self.config = config
        frames, rows, columns = config.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + rows * columns, config.width))
        self.temporal_pos_embedding = nn.Parameter(torch.zeros(1, frames, config.width))
        self.patch_embed = PatchEmbedding(config)
        last = max(1, config.depth - 1)
        rates = [config.drop_path_rate * index / last for index in range(config.depth)]
        rates[-1] = config.drop_path_rate  # also of a single block, as published
        self.layers = nn.ModuleList(Block(config, drop_path_rate=rate) for rate in rates)
        self.norm = make_norm(config)
        self._blocks = _Unowned(Blocks(config, self.layers, self.norm))
        self._replay: Callable[..., tuple[Tensor, ...]] | None = None
        self.pool_norm = nn.LayerNorm(config.width, eps=1e-5)
        self.clip_decoder = nn.ModuleList(
            AlignmentDecoder(config.width, config.alignment_width)
            for _ in range(config.alignment_layers)
        )
        table = sincos_table(1 + frames * rows * columns, config.width).unsqueeze(0)
        self.register_buffer("alignment_positions", table, persistent=False)
        self._initialise()

    def forward(
        self, clips: Tensor, *, mask: Tensor | None = None, keep_temporal: bool = True
    ) -> VisionOutput:
        """Encode clips [B, T, 3, H, W] of normalised float pixels, or images with T = 1.

        mask, bool [B, 1 + N], True = hidden, hides as many tokens in every clip and never the class
        token. `keep_temporal` pools each frame apart and needs as many visible tokens in every
        frame. Raises ValueError for clips or masks that do not fit.
        """
        features = self.encode(clips, mask=mask)
        cls, patches = features.tokens[:, 0], features.tokens[:, 1:]
        frames = self._frames(clips)
        if mask is not None and keep_temporal and self.config.pooling != "cls":
            _check_even_frames(mask, frames)
        pooled = pool_tokens(
            cls, patches, pooling=self.config.pooling, frames=frames, keep_temporal=keep_temporal
        )
        return VisionOutput(
            tokens=patches,
            class_token=cls,
            pooled=self.pool_norm(pooled),
            alignment=self._align(features, mask),
        )

    def encode(self, clips: Tensor, *, mask: Tensor | None = None) -> VisionFeatures:
        """The features before pooling and alignment; clips and mask as in `forward`."""
        self._check_clips(clips)
        if mask is not None:
            tokens = self._frames(clips) * (self.pos_embed.shape[1] - 1)
            _check_mask(mask, clips=clips.shape[0], tokens=tokens)
        stream = self._embed(clips, mask)
        blocks = self._blocks.module
        scales = blocks.draw_scales(stream.shape[0], stream.device)
        if self.config.scan_order != "spatial-first":
            normalised, *aligned = blocks(stream, scales, self._temporal_places(clips, mask))
            return VisionFeatures(tokens=normalised, aligned=tuple(aligned))
        inputs = (stream,) if scales is None else (stream, scales)
        run = (
            blocks if self._replay is None or not stream.is_cuda else partial(self._replay, blocks)
        )
        normalised, *aligned = run(*inputs)
        return VisionFeatures(tokens=normalised, aligned=tuple(aligned))

    def use_cuda_graphs(self, wanted: bool = True) -> None:
        """Let the blocks run as CUDA graphs on a GPU, from the second pass in a row of a kind on.

        For batches of one shape that are so small, or hosts so slow, that the GPU waits for
        launches, and for encoders that read spatial-first. Each of up to four kinds of pass (shape,
        with or without gradients) then holds its memory for good.
        """
        self._replay = None
        if wanted:
            # Only here, for it is of use beside a GPU alone.
            from reelscan.models.cuda.replay import Replay

            self._replay = Replay()

    def embed_piece(self, clips: Tensor, *, first: int) -> Tensor:
        """The rows [B, n, C] that some frames of a longer clip add to the stream.

        clips [B, t, 3, H, W], whose first token along time is number `first`; the very first rows
        have the class token before them.
        """
        times = self.temporal_pos_embedding[:, first : first + self._frames(clips)]
        patches = self._embed_patches(clips, times, None)
        return patches if first else self._with_class_token(patches)

    def _embed(self, clips: Tensor, mask: Tensor | None) -> Tensor:
        """The stream [B, 1 + N_vis, C] that enters the first block."""
        times = self.temporal_pos_embedding if clips.shape[1] > 1 else None
        visible = None if mask is None else ~mask[:, 1:]
        return self._with_class_token(self._embed_patches(clips, times, visible))

    def _embed_patches(self, clips: Tensor, times: Tensor | None, visible: Tensor | None) -> Tensor:
        places = self.pos_embed[:, 1:]
        if times is not None:
            places = (places.unsqueeze(1) + times.unsqueeze(2)).flatten(1, 2)
        patches: Tensor = self.patch_embed(clips.to(self.patch_embed.proj.weight.dtype), visible)
        return patches + at_least_float32(_visible_rows(places, visible))

    def _with_class_token(self, patches: Tensor) -> Tensor:
        cls = (self.cls_token + self.pos_embed[:, :1]).expand(len(patches), -1, -1)
        return torch.cat([cls.to(patches.dtype), patches], dim=1)

    def _temporal_places(self, clips: Tensor, mask: Tensor | None) -> Tensor:
        _, rows, columns = self.config.grid
        visible = None if mask is None else ~mask[:, 1:]
        return temporal_places(
            (self._frames(clips), rows, columns), visible, device=self.cls_token.device
        )

    def _align(self, features: VisionFeatures, mask: Tensor | None) -> Tensor | None:
        if not self.clip_decoder:
            return None
        tokens = features.tokens.shape[1] if mask is None else mask.shape[1]
        table = self.alignment_positions[:, :tokens]
        positions = _visible_rows(table, None if mask is None else ~mask)
        pairs = zip(self.clip_decoder, features.aligned, strict=True)
        return torch.stack([decoder(stream, positions) for decoder, stream in pairs])

    def _frames(self, clips: Tensor) -> int:
        """Tokens along time."""
        return clips.shape[1] // self.config.tubelet_size

    def _check_clips(self, clips: Tensor) -> None:
        side, frames = self.config.image_size, self.config.frames
        if clips.dim() != 5 or tuple(clips.shape[2:]) != (3, side, side):
            raise ValueError(f"clips are {tuple(clips.shape)}; give [B, T, 3, {side}, {side}]")
        allowed = {frames, 1} if self.config.tubelet_size == 1 else {frames}
        if clips.shape[1] not in allowed:
            raise ValueError(
                f"clips have {clips.shape[1]} frames; this encoder takes "
                f"{' or '.join(str(count) for count in sorted(allowed))}; for another length build "
                "it with that many frames and fit its weights with fit_encoder_state"
            )
        if not clips.is_floating_point():
            raise ValueError(f"clips are {clips.dtype}; give normalised floating-point pixels")

    def _initialise(self) -> None:
        """Linear maps trunc-normal; what a block adds to the stream shrinks with the depth."""
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        if self.config.position_init == "sincos":
            self._place_by_sincos()
        for name, module in self.named_modules():
            if not isinstance(module, nn.Linear):
                continue
            if name.endswith(("dt_proj", "dt_proj_b")) and not self.config.published_init:
                continue
            nn.init.trunc_normal_(module.weight, std=0.02)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
            if name.endswith("out_proj"):
                nn.init.kaiming_uniform_(module.weight, a=math.sqrt(5))
                with torch.no_grad():
                    module.weight /= math.sqrt(self.config.depth)

    def _place_by_sincos(self) -> None:
        frames, rows, columns = self.config.grid
        places = sincos_grid(rows, columns, self.config.width)
        times = sincos_table(frames, self.config.width, base=SHORT_AXIS_BASE)
        with torch.no_grad():
            self.pos_embed[0, 1:] = POSITION_AMPLITUDE * places
            self.temporal_pos_embedding[0] = POSITION_AMPLITUDE * times


@dataclass(frozen=True)
class _Unowned:
    """A module whose parts belong to another, and so must not be found as a part itself."""

    module: Blocks


def _visible_rows(table: Tensor, visible: Tensor | None) -> Tensor:
    """Rows of a table [1, N, C] that are visible: [B, N_vis, C], or the table itself."""
    if visible is None:
        return table
    clips = visible.shape[0]
    return table.expand(clips, -1, -1)[visible].reshape(clips, -1, table.shape[-1])


def _check_mask(mask: Tensor, *, clips: int, tokens: int) -> None:
    if mask.dtype != torch.bool or tuple(mask.shape) != (clips, 1 + tokens):
        raise ValueError(
            f"the mask is {mask.dtype} {tuple(mask.shape)}; these clips need torch.bool "
            f"{(clips, 1 + tokens)}, True = hidden, class token first"
        )
    if bool(mask[:, 0].any()):
        raise ValueError("the mask hides a class token; its first column must be False")
    counts = mask.sum(dim=1)
    if bool((counts != counts[0]).any()):
        raise ValueError(
            f"the mask hides {counts.tolist()} tokens of the clips; it must hide as many in each"
        )
    if int(counts[0]) == tokens:
        raise ValueError("the mask hides every patch; leave at least one visible")


def _check_even_frames(mask: Tensor, frames: int) -> None:
    counts = mask[:, 1:].reshape(len(mask), frames, -1).sum(dim=2)
    if bool((counts != counts[0, 0]).any()):
        raise ValueError(
            f"the mask hides {sorted(set(counts.flatten().tolist()))} tokens of a frame; with "
            "keep_temporal it must hide as many in each: use keep_temporal=False or a tube mask"
        )
