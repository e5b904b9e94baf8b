import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from reelscan.models.flops import encoder_flops
from reelscan.models.masks import random_mask, with_class_token
from reelscan.models.videomamba import VideoMamba
from reelscan.models.videomamba_config import VideoMambaConfig

CONFIG = VideoMambaConfig(
    image_size=32, patch_size=8, frames=4, depth=3, width=64, state_size=8, alignment_width=24
)


@pytest.mark.parametrize("ratio", [0.0, 0.75])
@pytest.mark.parametrize("frames", [1, 4])
def test_products_are_as_many_as_pytorch_counts(frames, ratio):
    """PyTorch counts products of matrices; what it does not know is added by the formula."""
    model = VideoMamba(CONFIG)
    mask = None
    if ratio:
        mask = with_class_token(random_mask(2, (frames, 4, 4), ratio=ratio))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.randn(2, frames, 3, 32, 32), mask=mask, keep_temporal=False)
    tokens, inner, directions = 1 + frames * 16 * (1 - ratio), 128, 2
    scans = directions * 9 * inner * CONFIG.state_size
    convolutions = directions * 2 * CONFIG.conv_width * inner
    known = counter.get_total_flops() / 2
    if counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution) is None:
        known += tokens * CONFIG.depth * convolutions
    expected = known + tokens * CONFIG.depth * scans
    given = encoder_flops(CONFIG, frames=frames, visible_fraction=1 - ratio)
    assert given == pytest.approx(expected, rel=0.005)
