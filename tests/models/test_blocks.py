"""The encoder's blocks as a part that can be run, copied and replayed apart from it."""

import copy

import torch
from torch import nn

from reelscan.models.blocks import Blocks
from reelscan.models.videomamba import VideoMamba, VideoMambaConfig

CONFIG = VideoMambaConfig(depth=2, width=24, image_size=32, frames=2, alignment_layers=1)


def test_the_blocks_are_no_second_part_of_the_encoder() -> None:
    names = list(VideoMamba(CONFIG).state_dict())
    assert len(names) == len(set(names))
    assert not [name for name in names if "blocks" in name]


def test_a_copy_runs_its_own_blocks() -> None:
    torch.manual_seed(0)
    encoder = VideoMamba(CONFIG).eval()
    clips = torch.randn(1, 2, 3, 32, 32)
    before = encoder.encode(clips).tokens
    twin = copy.deepcopy(encoder)
    for parameter in encoder.layers.parameters():
        nn.init.zeros_(parameter)
    assert torch.equal(twin.encode(clips).tokens, before)
    assert not torch.equal(encoder.encode(clips).tokens, before)


def test_cuda_graphs_leave_a_cpu_alone() -> None:
    torch.manual_seed(0)
    encoder = VideoMamba(CONFIG)
    clips = torch.randn(1, 2, 3, 32, 32)
    before = encoder.encode(clips).tokens
    encoder.use_cuda_graphs()
    assert all(torch.equal(encoder.encode(clips).tokens, before) for _ in range(3))


def test_scales_are_drawn_for_every_block_that_may_be_dropped() -> None:
    torch.manual_seed(0)
    config = VideoMambaConfig(depth=3, width=24, image_size=32, frames=2, drop_path_rate=0.5)
    encoder = VideoMamba(config)
    blocks = Blocks(config, encoder.layers, encoder.norm)
    scales = blocks.draw_scales(64, torch.device("cpu"))
    assert scales is not None
    assert scales.shape == (3, 64)
    assert bool((scales[0] == 1).all())
    assert set(scales[2].tolist()) == {0.0, 2.0}
    assert Blocks(config, encoder.eval().layers, encoder.norm).draw_scales(4, scales.device) is None
