"""The encoder's blocks as CUDA graphs against the same blocks launched one by one."""

import copy

import pytest
import torch
from tests.support.gpu import require_gpu
from torch import Tensor

from reelscan.models.videomamba import VideoMamba, VideoMambaConfig

CONFIG = VideoMambaConfig(depth=3, width=96, image_size=64, frames=4, alignment_layers=2)


def make_pair(config: VideoMambaConfig = CONFIG) -> tuple[VideoMamba, VideoMamba, Tensor]:
    """An encoder, its copy that uses graphs, and clips."""
    device = require_gpu()
    torch.manual_seed(0)
    plain = VideoMamba(config).to(device)
    graphed = copy.deepcopy(plain)
    graphed.use_cuda_graphs()
    return plain, graphed, torch.randn(2, 4, 3, 64, 64, device=device)


def loss_of(encoder: VideoMamba, clips: Tensor) -> Tensor:
    features = encoder.encode(clips)
    return sum((x.float() ** 3).mean() for x in (features.tokens, *features.aligned))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_inference(bfloat16: bool) -> None:
    plain, graphed, clips = make_pair()
    with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
        earlier = None
        for factor in (1.0, 2.0, 3.0, 4.0):
            expected, found = (one.encode(factor * clips).tokens for one in (plain, graphed))
            assert torch.equal(found, expected)
            assert earlier is None or not torch.equal(found, earlier)
            earlier = found


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("checkpointed", [0, 2])
def test_training_steps(bfloat16: bool, checkpointed: int) -> None:
    config = VideoMambaConfig(
        depth=3, width=96, image_size=64, frames=4, checkpointed_blocks=checkpointed
    )
    encoders = make_pair(config)
    clips = encoders[2]
    losses: list[list[float]] = []
    for encoder in encoders[:2]:
        optimizer = torch.optim.SGD(encoder.parameters(), lr=0.5)
        losses.append([])
        for _ in range(5):
            with torch.autocast("cuda", torch.bfloat16, enabled=bfloat16):
                loss = loss_of(encoder, clips)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            losses[-1].append(loss.item())
    assert losses[0] == losses[1]
    assert len(set(losses[0])) == 5


def test_dropped_paths_differ_between_steps() -> None:
    config = VideoMambaConfig(depth=3, width=96, image_size=64, frames=4, drop_path_rate=0.5)
    plain, graphed, clips = make_pair(config)
    for step in range(5):
        found = []
        for encoder in (plain, graphed):
            torch.manual_seed(step)
            loss = loss_of(encoder, clips)
            found.append((loss.item(), torch.autograd.grad(loss, encoder.pos_embed)[0]))
        assert found[0][0] == found[1][0]
        assert torch.equal(found[0][1], found[1][1])


def test_two_passes_before_one_backward() -> None:
    plain, graphed, clips = make_pair()
    for _ in range(4):
        both = []
        for encoder in (plain, graphed):
            loss = loss_of(encoder, clips) + 2 * loss_of(encoder, -clips)
            both.append(torch.autograd.grad(loss, list(encoder.layers.parameters())))
        assert all(torch.equal(one, other) for one, other in zip(*both, strict=True))


def test_a_pass_that_is_never_differentiated_blocks_nothing() -> None:
    _, graphed, clips = make_pair()
    for _ in range(3):
        loss_of(graphed, clips)
    loss_of(graphed, clips).backward()
    assert graphed.layers[0].mixer.in_proj.weight.grad is not None


def test_weights_that_moved_are_captured_again() -> None:
    plain, graphed, clips = make_pair()
    with torch.inference_mode():
        for _ in range(3):
            graphed.encode(clips)
        graphed.cpu().cuda()
        for layer in graphed.layers:
            layer.mixer.in_proj.weight.mul_(2)
        for layer in plain.layers:
            layer.mixer.in_proj.weight.mul_(2)
        for _ in range(3):
            assert torch.equal(graphed.encode(clips).tokens, plain.encode(clips).tokens)
