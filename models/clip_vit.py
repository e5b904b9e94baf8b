"""The image tower of CLIP: teacher of the masked student, and a tower that can be trained.

As a teacher it hands out intermediate features of every frame and the attention of the last
block's class token. Parameter names are those of the published extract.

Axes: B clips, T frames, H x W pixels, HW patches of a frame (the visible ones under a mask),
K alignment layers, C width, E output width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class ClipVisionConfig:
    """Sizes of a CLIP ViT and which of its features a student learns from."""

    image_size: int
    """Side of the square frames in pixels; others are resized."""
    patch_size: int
    """Side of a square patch in pixels."""
    width: int
    """Channels of the transformer."""
    layers: int
    """Transformer blocks."""
    heads: int
    """Attention heads of a block."""
    output_dim: int
    """Width of the features handed out."""
    quick_gelu: bool = True
    """GELU as x * sigmoid(1.702 x): true for the original CLIP weights, false for LAION's."""
    return_layers: int = 1
    """How many layers' features are handed out, counted from the last."""
    return_interval: int = 1
    """Steps in blocks between these layers."""
    class_feature: bool = True
    """Put the class token's features first; without them the patches pass ln_post, as published."""
    l2_features: bool = False
    """Hand out features of length 1 (classification recipe) instead of leaving it to the loss."""

    def __post_init__(self) -> None:
        sizes = ("image_size", "patch_size", "width", "layers", "heads", "output_dim")
        for name in (*sizes, "return_layers", "return_interval"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; give a number of at least 1")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size} is no multiple of patch_size {self.patch_size}; "
                "choose sizes that divide"
            )
        if self.width % self.heads:
            raise ValueError(
                f"width {self.width} cannot be split over {self.heads} heads; "
                "choose heads that divide the width"
            )
        if (self.return_layers - 1) * self.return_interval >= self.layers:
            raise ValueError(
                f"{self.return_layers} layers {self.return_interval} apart do not fit into "
                f"{self.layers} blocks; return fewer or take a smaller return_interval"
            )

    @property
    def returned_blocks(self) -> tuple[int, ...]:
        """Numbers of the blocks whose features are handed out, shallow to deep."""
        steps = range(self.return_layers)
        return tuple(sorted(self.layers - 1 - step * self.return_interval for step in steps))


def clip_vit_base_patch16() -> ClipVisionConfig:
    """ViT-B/16, the published teacher."""
    return ClipVisionConfig(
        image_size=224, patch_size=16, width=768, layers=12, heads=12, output_dim=512
    )


@dataclass(frozen=True, kw_only=True)
class TeacherOutput:
    """What the student is compared with, and where the teacher looked."""

    features: Tensor
    """[K, B, 1 + T*HW, E], shallow to deep; first the mean over frames of the class features."""
    attention: Tensor
    """[B*T, HW]: class row of the last block, mean over heads, own column dropped."""


class QuickGELU(nn.Module):
    """The cheaper GELU that CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class Attention(nn.Module):
    """Self-attention with one combined input projection."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Tensor, *, class_row: bool = False) -> tuple[Tensor, Tensor | None]:
        """x [B, N, C] -> the same and, if asked, the class token's attention [B, N]."""
        batch, tokens, width = x.shape
        projected = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        split = projected.view(batch, tokens, 3, self.heads, width // self.heads)
        query, key, value = split.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value)
        output = self.out_proj(mixed.transpose(1, 2).flatten(2))
        if not class_row:
            return output, None
        scores = query[:, :, :1] @ key.transpose(-2, -1) / query.shape[-1] ** 0.5
        return output, scores.float().softmax(dim=-1).mean(dim=1).squeeze(1)


class Mlp(nn.Module):
    """The two linear layers of a block."""

    def __init__(self, width: int, *, quick_gelu: bool) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, MLP_RATIO * width)
        self.activation = QuickGELU() if quick_gelu else nn.GELU()
        self.c_proj = nn.Linear(MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.c_proj(self.activation(self.c_fc(x)))
        return output


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width)
        self.attn = Attention(config.width, config.heads)
        self.ln_2 = nn.LayerNorm(config.width)
        self.mlp = Mlp(config.width, quick_gelu=config.quick_gelu)

    def forward(self, x: Tensor, *, class_row: bool = False) -> tuple[Tensor, Tensor | None]:
        mixed, attention = self.attn(self.ln_1(x), class_row=class_row)
        x = x + mixed
        return x + self.mlp(self.ln_2(x)), attention


class Transformer(nn.Module):
    """The blocks, under their published name."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(config) for _ in range(config.layers))


class ClipVision(nn.Module):
    """CLIP's vision transformer, applied to every frame on its own."""

    def __init__(self, config: ClipVisionConfig) -> None:
        super().__init__()
        self.config = config
        width, patch = config.width, config.patch_size
        tokens = (config.image_size // patch) ** 2 + 1
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty(tokens, width))
        self.proj = nn.Parameter(torch.empty(width, config.output_dim))
        self.conv1 = nn.Conv3d(3, width, (1, patch, patch), (1, patch, patch), bias=False)
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(config)
        self.ln_post = nn.LayerNorm(width)
        self._initialise()

    def forward(self, clips: Tensor, *, mask: Tensor | None = None) -> TeacherOutput:
        """Features and class attention of every frame.

        clips: float [B, T, 3, H, W]. mask: bool [B, T*HW], True hides a patch before the first
        block; every frame must keep equally many. HW then counts the visible patches.
        Raises ValueError for other shapes.
        """
        if clips.ndim != 5 or clips.shape[2] != 3:
            raise ValueError(f"clips have shape {list(clips.shape)}; give [B, T, 3, H, W]")
        batch, frames = clips.shape[:2]
        tokens = self._embed_patches(clips.flatten(0, 1))
        if mask is not None:
            tokens = _keep_visible(tokens, mask, frames=frames)
        layers, attention = self._run_blocks(tokens)
        features = self._student_targets(layers.view(len(layers), batch, frames, *layers.shape[2:]))
        return TeacherOutput(features=features, attention=attention[:, 1:])

    def embed_images(self, images: Tensor) -> Tensor:
        """Image vectors, not normalised: float [B, 3, H, W] -> [B, E]. Raises ValueError."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"images have shape {list(images.shape)}; give [B, 3, H, W]")
        tokens = self._embed_patches(images)
        for block in self.transformer.resblocks:
            tokens, _ = block(tokens)
        embedded: Tensor = self.ln_post(tokens[:, 0]) @ self.proj
        return embedded

    def _embed_patches(self, images: Tensor) -> Tensor:
        """[B, 3, H, W] -> [B, 1 + HW, C]"""
        images = resize_bicubic(images, self.config.image_size)
        kernel = self.conv1.weight.squeeze(2)
        patches = F.conv2d(images, kernel, stride=self.config.patch_size).flatten(2).mT
        class_token = self.class_embedding.expand(len(patches), 1, -1)
        tokens = torch.cat([class_token.to(patches.dtype), patches], dim=1)
        normed: Tensor = self.ln_pre(tokens + self.positional_embedding)
        return normed

    def _run_blocks(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """[B, N, C] -> outputs of the returned blocks [K, B, N, C], last class attention [B, N]"""
        kept, attention = [], None
        for number, block in enumerate(self.transformer.resblocks):
            last = number == self.config.layers - 1
            tokens, attention = block(tokens, class_row=last)
            if number in self.config.returned_blocks:
                kept.append(tokens)
        assert attention is not None, "the last block always gives its attention"
        return torch.stack(kept), attention

    def _student_targets(self, layers: Tensor) -> Tensor:
        """[K, B, T, 1 + HW, C] -> [K, B, 1 + T*HW, E], or without the 1"""
        patches = layers[:, :, :, 1:].flatten(2, 3)
        if self.config.class_feature:
            features = torch.cat([layers[:, :, :, 0].mean(dim=2, keepdim=True), patches], dim=2)
        else:
            features = self.ln_post(patches)
        features = features @ self.proj
        return F.normalize(features, dim=-1) if self.config.l2_features else features

    def _initialise(self) -> None:
        """Scales by width and depth, as CLIP trained from scratch needs them."""
        scale = self.config.width**-0.5
        for parameter in (self.class_embedding, self.positional_embedding, self.proj):
            nn.init.normal_(parameter, std=scale)
        into_stream = scale * (2 * self.config.layers) ** -0.5
        for block in self.transformer.resblocks:
            assert isinstance(block, Block)
            nn.init.normal_(block.attn.in_proj_weight, std=scale)
            nn.init.normal_(block.attn.out_proj.weight, std=into_stream)
            nn.init.zeros_(block.attn.out_proj.bias)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * self.config.width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=into_stream)


def resize_bicubic(images: Tensor, size: int) -> Tensor:
    """float [B, 3, H, W] -> [B, 3, size, size], without antialiasing, as the teacher was fed."""
    if images.shape[-2:] == (size, size):
        return images
    return F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)


def _keep_visible(tokens: Tensor, mask: Tensor, *, frames: int) -> Tensor:
    """[B*T, 1 + HW, C], mask [B, T*HW] -> [B*T, 1 + visible, C]"""
    clips, patches = len(tokens) // frames, tokens.shape[1] - 1
    if mask.shape != (clips, frames * patches) or mask.dtype != torch.bool:
        raise ValueError(
            f"the mask is {mask.dtype} {list(mask.shape)}; "
            f"give a bool mask [B, T*HW] = [{clips}, {frames * patches}], True = hidden"
        )
    visible = ~mask.view(-1, patches)
    counts = visible.sum(dim=1)
    if not bool((counts == counts[0]).all()):
        raise ValueError(
            f"the mask leaves {int(counts.min())} to {int(counts.max())} patches visible in a "
            "frame; the teacher needs equally many in each"
        )
    kept = tokens[:, 1:][visible].view(len(tokens), -1, tokens.shape[2])
    return torch.cat([tokens[:, :1], kept], dim=1)
