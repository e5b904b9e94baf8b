"""An encoder's pass over a clip of any length in pieces, in memory that does not grow with it.

Each block needs both directions over the whole sequence, so the token streams lie in a store while
one piece at a time is computed. Blocks are swept alternately from either end: a sweep adds the
second direction of one block, which completes it, and runs the first direction of the next.

Axes: B clips, T tokens along time (frames), N tokens of a frame, L = 1 + T N, H x W pixels,
C model width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from reelscan.models.blocks import Block
from reelscan.models.mixer_pieces import Carried, mix_piece
from reelscan.models.pooling import pool_tokens
from reelscan.models.roomy_tensor import roomy_tensor
from reelscan.models.videomamba import VideoMamba

ReadFrames = Callable[[int, int], Tensor]
"""Frames first .. last + 1 of the clips, [B, t, 3, H, W] normalised, on the encoder's device."""


@dataclass(frozen=True, kw_only=True)
class _Piece:
    """Some frames, and where their tokens lie; the first piece has the class token too."""

    first_frame: int
    end_frame: int
    first_token: int
    end_token: int


def pool_long_clips(
    encoder: VideoMamba, read_frames: ReadFrames, *, clips: int, piece_frames: int
) -> Tensor:
    """`encoder(clips).pooled` [B, T, C] (one row if it pools the class token alone) of B `clips`.

    Equal but for rounding, without gradients and masks, in evaluation mode. Works on
    `piece_frames` at a time, which costs what a clip of such a length does; the streams of all
    `encoder.config.frames` take 8 B L C bytes, in a temporary file if they are large.
    """
    if piece_frames < 1:
        raise ValueError(f"piece_frames is {piece_frames}; give at least 1")
    if encoder.config.tubelet_size > 1:
        raise ValueError("an encoder whose tokens cover several frames cannot read in pieces")
    if encoder.config.scan_order != "spatial-first":
        raise ValueError(
            f"this encoder reads {encoder.config.scan_order}, for which pieces of a clip are of no "
            "use; give clips that it can read whole"
        )
    with torch.no_grad():
        return _LongPass(encoder, read_frames, clips=clips, piece_frames=piece_frames).run()


class _LongPass:
    """The streams of one pass."""

    def __init__(
        self, encoder: VideoMamba, read_frames: ReadFrames, *, clips: int, piece_frames: int
    ) -> None:
        self.encoder = encoder
        self.read_frames = read_frames
        self.pieces = _cut(encoder, piece_frames)
        self.device = encoder.cls_token.device
        wide = torch.promote_types(encoder.cls_token.dtype, torch.float32)
        shape = (self.pieces[-1].end_token, clips, encoder.config.width)
        # A piece is then one stretch of the store.
        self.stream = roomy_tensor(shape, wide, device=self.device)
        self.half_added = roomy_tensor(shape, wide, device=self.device)
        self.class_token: Tensor | None = None
        self.means: dict[int, Tensor] = {}

    def run(self) -> Tensor:
        for number in range(len(self.encoder.layers) + 1):
            self._sweep(number)
        assert self.class_token is not None
        pooled = pool_tokens(
            self.class_token,
            torch.cat([self.means[piece.first_frame] for piece in self.pieces], dim=1),
            pooling=self.encoder.config.pooling,
            frames=self.encoder.config.frames,
            keep_temporal=True,
        )
        normalised: Tensor = self.encoder.pool_norm(pooled)
        return normalised

    def _sweep(self, number: int) -> None:
        """Complete block number - 1 and begin block `number`, odd ones against the sequence."""
        against = number % 2 == 1
        layers = self.encoder.layers
        of_completed: Carried | None = None
        of_begun: Carried | None = None
        for piece in reversed(self.pieces) if against else self.pieces:
            rows = slice(piece.first_token, piece.end_token)
            if number == 0:
                frames = self.read_frames(piece.first_frame, piece.end_frame)
                stream = self.encoder.embed_piece(frames, first=piece.first_frame)
            else:
                stream, half = (self._read(kept, rows) for kept in (self.stream, self.half_added))
                other, of_completed = _half(layers[number - 1], stream, of_completed, against)
                stream = stream + (half + other)
            if number == len(layers):
                self._pool(piece, self.encoder.norm(stream))
                continue
            half, of_begun = _half(layers[number], stream, of_begun, against)
            self.stream[rows] = stream.transpose(0, 1)
            self.half_added[rows] = half.transpose(0, 1)

    def _read(self, kept: Tensor, rows: slice) -> Tensor:
        return kept[rows].to(self.device).transpose(0, 1).contiguous()

    def _pool(self, piece: _Piece, tokens: Tensor) -> None:
        if piece.first_frame == 0:
            self.class_token, tokens = tokens[:, 0].clone(), tokens[:, 1:]
        frames = piece.end_frame - piece.first_frame
        self.means[piece.first_frame] = tokens.reshape(
            len(tokens), frames, -1, tokens.shape[-1]
        ).mean(dim=2)


def _half(
    layer: torch.nn.Module, stream: Tensor, carried: Carried | None, against: bool
) -> tuple[Tensor, Carried]:
    """What one direction of a block adds to a piece of its stream."""
    assert isinstance(layer, Block)
    return mix_piece(layer.mixer, layer.norm(stream), carried, against=against)


def _cut(encoder: VideoMamba, piece_frames: int) -> list[_Piece]:
    frames, rows, columns = encoder.config.grid
    bounds = [*range(0, frames, piece_frames), frames]
    return [
        _Piece(
            first_frame=first,
            end_frame=end,
            first_token=1 + first * rows * columns if first else 0,
            end_token=1 + end * rows * columns,
        )
        for first, end in pairwise(bounds)
    ]
