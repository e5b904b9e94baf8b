"""From the encoder's features to the teacher's: one small decoder a layer.

Axes: B clips, N visible tokens (class token included), C model width, E teacher width.
"""

from torch import Tensor, nn


class AlignmentDecoder(nn.Module):
    """LayerNorm(Linear(feature + position)), [B, N, C] -> [B, N, E]; not L2-normalised."""

    def __init__(self, width: int, alignment_width: int) -> None:
        super().__init__()
        self.head = nn.Linear(width, alignment_width)
        self.norm = nn.LayerNorm(alignment_width, eps=1e-5)

    def forward(self, features: Tensor, positions: Tensor) -> Tensor:
        """features [B, N, C], positions [B or 1, N, C] -> [B, N, E]."""
        placed = (features + positions).to(self.head.weight.dtype)
        normalised: Tensor = self.norm(self.head(placed))
        return normalised
