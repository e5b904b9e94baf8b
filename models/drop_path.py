"""Stochastic depth: in training, a block's output is left out for some clips.

Axes: B clips, L sequence length, C model width.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Draw = Callable[[int], Tensor]
"""From a number of clips to that many uniform draws in [0, 1)."""


class DropPath(nn.Module):
    """Zeroes whole clips with chance `rate` in training, and scales the others by 1 / (1 - rate).

    The randomness comes from `draw`, by default torch's global generator; where nothing can be
    dropped it is not called.
    """

    def __init__(self, rate: float, *, draw: Draw = torch.rand) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the drop rate is {rate}; it must lie in [0, 1)")
        self.rate = rate
        self.draw = draw

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden [B, L, C] -> [B, L, C]."""
        scale = self.scale(hidden)
        return hidden if scale is None else hidden * scale.view(-1, 1, 1).to(hidden.dtype)

    def scale(self, hidden: Tensor) -> Tensor | None:
        """What each clip of hidden [B, L, C] is multiplied by, [B]; None: nothing is dropped."""
        if self.rate == 0.0 or not self.training:
            return None
        keep_rate = 1.0 - self.rate
        kept = torch.floor(keep_rate + self.draw(hidden.shape[0])) / keep_rate
        return kept.to(hidden.device)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"
