"""What our encoder is measured beside: a video ViT, and VideoMamba on the published kernels.

Axes: B clips, T frames, N tokens, C model width, D inner channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from reelscan.models.mixer import BidirectionalMixer
from reelscan.models.norm import RMSNorm
from reelscan.models.videomamba import VideoMamba


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before = nn.LayerNorm(width)
        self.project_in = nn.Linear(width, 3 * width)
        self.project_out = nn.Linear(width, width)
        self.before_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        queries, keys, values = (
            self.project_in(self.before(tokens))
            .unflatten(-1, (3, self.heads, -1))
            .permute(2, 0, 3, 1, 4)
        )
        mixed = functional.scaled_dot_product_attention(queries, keys, values)
        tokens = tokens + self.project_out(mixed.transpose(1, 2).flatten(2))
        mixed = self.mlp(self.before_mlp(tokens))
        return tokens + mixed


class VideoViT(nn.Module):
    """Joint space-time attention over the patches of all frames, heads of 64."""

    def __init__(
        self, width: int, *, frames: int, side: int = 224, patch: int = 16, depth: int = 12
    ) -> None:
        super().__init__()
        self.patch = patch
        count = frames * (side // patch) ** 2
        self.embed = nn.Linear(3 * patch * patch, width)
        self.cls = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.zeros(1, 1 + count, width))
        self.blocks = nn.ModuleList(_Attention(width, width // 64) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """clips [B, T, 3, H, W], visible bool [B, N] -> tokens [B, 1 + N, C]."""
        batch, frames, channels, height, width = clips.shape
        size = self.patch
        patches = clips.view(batch, frames, channels, height // size, size, width // size, size)
        tokens = patches.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch, -1, channels * size * size)
        positions = self.positions[:, 1:].expand(batch, -1, -1)
        if visible is not None:
            tokens = tokens[visible].view(batch, -1, tokens.shape[-1])
            positions = positions[visible].view(batch, -1, positions.shape[-1])
        tokens = self.embed(tokens) + positions
        cls = (self.cls + self.positions[:, :1]).expand(batch, -1, -1)
        tokens = torch.cat([cls.to(tokens.dtype), tokens], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        normed: Tensor = self.norm(tokens)
        return normed


class _PublishedMixer(nn.Module):
    """Our mixer's parameters through mamba_ssm's scan and causal_conv1d, channels first."""

    def __init__(self, ours: BidirectionalMixer) -> None:
        super().__init__()
        self.ours = ours

    def forward(self, hidden: Tensor) -> Tensor:
        xz = self.ours.in_proj(hidden).transpose(1, 2).contiguous()
        ours = self.ours
        forward = self._direction(xz, ours.conv1d, ours.x_proj, ours.dt_proj, ours.A_log, ours.D)
        backward = self._direction(
            xz.flip(-1), ours.conv1d_b, ours.x_proj_b, ours.dt_proj_b, ours.A_b_log, ours.D_b
        )
        mixed: Tensor = ours.out_proj((forward + backward.flip(-1)).transpose(1, 2))
        return mixed

    def _direction(
        self,
        xz: Tensor,
        conv: nn.Conv1d,
        x_proj: nn.Linear,
        dt_proj: nn.Linear,
        A_log: Tensor,
        D: Tensor,
    ) -> Tensor:
        from causal_conv1d import causal_conv1d_fn
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

        x, z = xz.chunk(2, dim=1)
        x = causal_conv1d_fn(x, conv.weight.squeeze(1), conv.bias, activation="silu")
        states, rank = A_log.shape[1], dt_proj.in_features
        projected = x_proj(x.transpose(1, 2))
        steps, B, C = projected.split([rank, states, states], dim=-1)
        delta = (dt_proj.weight @ steps.flatten(0, 1).t()).view(x.shape[1], x.shape[0], x.shape[2])
        scanned: Tensor = selective_scan_fn(
            x,
            delta.transpose(0, 1).contiguous(),
            -torch.exp(A_log.float()),
            B.transpose(1, 2).contiguous(),
            C.transpose(1, 2).contiguous(),
            D.float(),
            z=z,
            delta_bias=dt_proj.bias.float(),
            delta_softplus=True,
        )
        return scanned


class PublishedVideoMamba(nn.Module):
    """A VideoMamba whose blocks run on the published kernels, the fused add-norm included."""

    def __init__(self, ours: VideoMamba) -> None:
        super().__init__()
        self.ours = ours
        self.mixers = nn.ModuleList(_PublishedMixer(layer.mixer) for layer in ours.layers)

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Tensor:
        """clips [B, T, 3, H, W] -> tokens [B, 1 + N_vis, C]."""
        stream: Tensor | None = None
        added = self.ours._embed(clips, mask)
        added = added.to(self.ours.layers[0].mixer.in_proj.weight.dtype)
        for layer, mixer in zip(self.ours.layers, self.mixers, strict=True):
            added, stream = self._add_norm(added, stream, layer.norm)
            added = mixer(added)
        tokens, _ = self._add_norm(added, stream, self.ours.norm)
        return tokens

    def _add_norm(
        self, added: Tensor, stream: Tensor | None, norm: RMSNorm
    ) -> tuple[Tensor, Tensor]:
        from mamba_ssm.ops.triton.layer_norm import rms_norm_fn

        normed, total = rms_norm_fn(
            added,
            norm.weight,
            None,
            residual=stream,
            eps=norm.epsilon,
            prenorm=True,
            residual_in_fp32=True,
        )
        return normed, total
