"""VideoMamba's blocks one after another: the part of the encoder that takes nearly all its time.

Axes: B clips, L tokens with the class token, C model width, K alignment layers.
"""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from reelscan.models.drop_path import DropPath
from reelscan.models.mixer import BidirectionalMixer
from reelscan.models.norm import LayerNorm, RMSNorm, add_and_norm
from reelscan.models.scan_order import reads_temporal_first, reorder
from reelscan.models.videomamba_config import VideoMambaConfig


class Block(nn.Module):
    """Adds what the block before made to the stream, and mixes the normalised sum.

    The sum waits for the next block, so that adding and normalising take one pass over memory.
    """

    def __init__(self, config: VideoMambaConfig, *, drop_path_rate: float) -> None:
        super().__init__()
        self.mixer = BidirectionalMixer(
            config.width,
            state_size=config.state_size,
            conv_width=config.conv_width,
            expand=config.expand,
        )
        self.norm = make_norm(config)
        self.drop_path = DropPath(drop_path_rate)

    def forward(
        self, stream: Tensor, added: Tensor | None, scale: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The stream before this block [B, L, C] in float32 or wider, and what is to be added to it
        [B, L, C]; `scale` [B] multiplies what the block before added, None meaning one."""
        stream, normed = add_and_norm(stream, added, scale, self.norm)
        return stream, self.mixer(normed)


class Blocks(nn.Module):
    """All blocks and the normalisation behind them, of an encoder that owns both."""

    def __init__(
        self, config: VideoMambaConfig, layers: nn.ModuleList, norm: RMSNorm | LayerNorm
    ) -> None:
        super().__init__()
        self.config = config
        self.layers = layers
        self.norm = norm

    def draw_scales(self, clips: int, device: torch.device) -> Tensor | None:
        """What each clip's addition of each block is multiplied by, [blocks, B]; None: one."""
        like = torch.empty(clips, 1, 1)
        scales = [layer.drop_path.scale(like) for layer in self.layers if isinstance(layer, Block)]
        if all(scale is None for scale in scales):
            return None
        ones = torch.ones(clips)
        return torch.stack([ones if scale is None else scale for scale in scales]).to(device)

    def forward(
        self, stream: Tensor, scales: Tensor | None = None, places: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        """stream [B, L, C] -> tokens [B, L, C] after the last normalisation, and the K streams
        [B, L, C] that are aligned, shallow to deep.

        `places`, of `temporal_places`, is for blocks that do not read spatial-first.
        """
        config = self.config
        added: Tensor | None = None
        scale: Tensor | None = None
        order = _Order(places)
        aligned = []
        for index, layer in enumerate(self.layers):
            if reads_temporal_first(config.scan_order, index) != order.is_temporal:
                stream, added = order.switch(stream, added)
            if index < config.checkpointed_blocks and torch.is_grad_enabled():
                stream, added = checkpoint(
                    layer, stream, added, scale, use_reentrant=False, preserve_rng_state=False
                )
            else:
                stream, added = layer(stream, added, scale)
            scale = None if scales is None else scales[index]
            if index in config.aligned_blocks:
                found = self._alignment_stream(index, stream, added, scale)
                aligned.append(order.spatial_first(found))
        _, normalised = add_and_norm(stream, added, scale, self.norm)
        return order.spatial_first(normalised), *aligned

    def _alignment_stream(
        self, index: int, stream: Tensor, added: Tensor | None, scale: Tensor | None
    ) -> Tensor:
        """Of the last layer the stream itself, of the others the normalised one: as published."""
        last = index == self.config.depth - 1
        if last and self.config.last_alignment_before_mixer:
            return stream
        after, normalised = add_and_norm(stream, added, scale, self.norm)
        return after if last else normalised


class _Order:
    """In which order the rows of a stream lie, and the way to the other."""

    def __init__(self, places: Tensor | None) -> None:
        self.is_temporal = False
        self._places = places
        self._back = None if places is None else places.argsort(dim=1)

    def switch(self, stream: Tensor, added: Tensor | None) -> tuple[Tensor, Tensor | None]:
        rows = self._back if self.is_temporal else self._places
        assert rows is not None, "the encoder tells the places wherever a block needs them"
        self.is_temporal = not self.is_temporal
        return reorder(stream, rows), None if added is None else reorder(added, rows)

    def spatial_first(self, rows: Tensor) -> Tensor:
        if not self.is_temporal or self._back is None:
            return rows
        return reorder(rows, self._back)


def make_norm(config: VideoMambaConfig) -> RMSNorm | LayerNorm:
    """The normalisation of the residual stream."""
    if config.norm == "rms":
        return RMSNorm(config.width, epsilon=config.norm_epsilon)
    return LayerNorm(config.width, eps=config.norm_epsilon)
