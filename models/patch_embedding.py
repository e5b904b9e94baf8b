"""Frames cut into patches, and each patch projected to the model width.

Axes: B clips, T frames, H x W pixels, N tokens (time first, then rows, then columns), C width.
"""

from torch import Tensor, nn
from torch.nn import functional

from reelscan.models.videomamba_config import VideoMambaConfig


class PatchEmbedding(nn.Module):
    """A strided 3-d convolution, computed patch by patch so that hidden ones cost nothing."""

    def __init__(self, config: VideoMambaConfig) -> None:
        super().__init__()
        kernel = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, kernel_size=kernel, stride=kernel)

    def forward(self, clips: Tensor, visible: Tensor | None = None) -> Tensor:
        """clips [B, T, 3, H, W] -> [B, N, C].

        With `visible`, bool [B, N] with as many True in each row, only those tokens, in order.
        """
        batch, frames, channels, height, width = clips.shape
        tubelet, rows, columns = self.proj.kernel_size
        patches = clips.reshape(
            *(batch, frames // tubelet, tubelet, channels),
            *(height // rows, rows, width // columns, columns),
        ).permute(0, 1, 4, 6, 3, 2, 5, 7)
        patches = patches.reshape(-1, self.proj.weight[0].numel())
        if visible is not None:
            patches = patches[visible.flatten()]
        embedded = functional.linear(patches, self.proj.weight.flatten(1), self.proj.bias)
        return embedded.view(batch, -1, embedded.shape[-1])
