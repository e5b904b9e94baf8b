"""Turning pictures upright, as the file's display matrix asks."""

from dataclasses import dataclass

import av
import numpy as np
import torch
from av.sidedata.sidedata import SideData
from torch import Tensor


@dataclass(frozen=True)
class Orientation:
    """How stored pictures become upright ones: transpose first, then mirror."""

    transposed: bool = False
    mirrored_rows: bool = False
    """upside down"""
    mirrored_columns: bool = False
    """left to right"""

    @property
    def rotation_degrees(self) -> int:
        """Clockwise turn: 0, 90, 180 or 270. A mere mirroring counts as none."""
        if self.transposed:
            return 270 if self.mirrored_rows else 90
        return 180 if self.mirrored_rows and self.mirrored_columns else 0

    def apply(self, frames: Tensor) -> Tensor:
        """[..., H, W] as stored -> [..., H or W, W or H] upright."""
        if self.transposed:
            frames = frames.transpose(-1, -2)
        mirrored = [
            axis
            for axis, is_mirrored in ((-2, self.mirrored_rows), (-1, self.mirrored_columns))
            if is_mirrored
        ]
        return torch.flip(frames, mirrored) if mirrored else frames


def orientation_of(frame: av.VideoFrame) -> Orientation:
    """The orientation nearest to the frame's display matrix; upright if it has none."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return Orientation()
    a, b, _, c, d = np.frombuffer(bytes(matrix), dtype=np.int32)[:5].tolist()
    # Stored (x, y) is shown at (a x + c y, b x + d y).
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return Orientation(mirrored_rows=d < 0, mirrored_columns=a < 0)
    return Orientation(transposed=True, mirrored_rows=b < 0, mirrored_columns=c < 0)
