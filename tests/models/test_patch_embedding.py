"""Patch embedding. Axes: B clips, T frames, N tokens."""

import pytest
import torch

from reelscan.models.patch_embedding import PatchEmbedding
from reelscan.models.videomamba_config import VideoMambaConfig


@pytest.mark.parametrize("tubelet_size", [1, 2])
def test_equals_a_strided_convolution_time_first(tubelet_size):
    config = VideoMambaConfig(
        image_size=12, patch_size=4, frames=4, tubelet_size=tubelet_size, depth=1, width=10
    )
    embedding = PatchEmbedding(config)
    clips = torch.randn(2, 4, 3, 12, 12)
    expected = embedding.proj(clips.transpose(1, 2)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(embedding(clips), expected)


def test_visible_tokens_keep_their_order():
    config = VideoMambaConfig(image_size=8, patch_size=4, frames=2, depth=1, width=10)
    embedding, clips = PatchEmbedding(config), torch.randn(2, 2, 3, 8, 8)
    visible = torch.zeros(2, 8, dtype=torch.bool)
    visible[0, [1, 4, 7]] = visible[1, [0, 2, 3]] = True
    everything, some = embedding(clips), embedding(clips, visible)
    torch.testing.assert_close(some[0], everything[0, [1, 4, 7]])
    torch.testing.assert_close(some[1], everything[1, [0, 2, 3]])
