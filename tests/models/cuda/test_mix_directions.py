"""A mixer in one operator against the same mixer piece by piece.

Axes: B clips, L sequence length, C model width.
"""

import pytest
import torch
from tests.support.gpu import require_gpu
from torch import Tensor

from reelscan.models.cuda.mix_directions import mix_directions
from reelscan.models.mixer import BidirectionalMixer, MambaMixer
from reelscan.models.scan_backend import scanning_by
from reelscan.models.videomamba import VideoMamba, VideoMambaConfig


def in_one(mixer: MambaMixer, hidden: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    xz = mixer.in_proj(hidden).to(dtype)
    mixed: Tensor = mix_directions(xz, mixer._parameters_of_directions(), mixer.out_proj.weight)
    return mixed


def error(ours: Tensor, expected: Tensor) -> float:
    """The largest, over the largest value; where all must be zero the largest itself."""
    return ((ours - expected).abs().max() / (expected.abs().max() or 1.0)).item()


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("kind", [MambaMixer, BidirectionalMixer])
@pytest.mark.parametrize(("width", "length"), [(24, 1), (24, 5), (24, 37), (18, 70)])
def test_values_and_gradients(kind: type[MambaMixer], width: int, length: int) -> None:
    torch.manual_seed(0)
    mixer = kind(width)
    hidden = torch.randn(2, length, width, requires_grad=True)
    inputs = [hidden, *mixer.parameters()]
    ours, expected = in_one(mixer, hidden), mixer(hidden)
    grad = torch.randn_like(expected)
    assert error(ours, expected) < 1e-5
    found = torch.autograd.grad(ours, inputs, grad)
    wanted = torch.autograd.grad(expected, inputs, grad)
    for one, other in zip(found, wanted, strict=True):
        assert error(one, other) < 1e-5


@pytest.mark.usefixtures("emulated")
def test_bfloat16_is_near() -> None:
    torch.manual_seed(0)
    mixer, hidden = BidirectionalMixer(24), torch.randn(2, 20, 24)
    assert error(in_one(mixer, hidden, torch.bfloat16), mixer(hidden)) < 2e-2


@pytest.mark.usefixtures("emulated")
def test_every_run_gives_the_same_bits() -> None:
    torch.manual_seed(0)
    mixer, hidden = BidirectionalMixer(24), torch.randn(2, 20, 24)
    runs = [
        torch.autograd.grad(in_one(mixer, hidden).square().sum(), list(mixer.parameters()))
        for _ in range(2)
    ]
    assert all(torch.equal(one, other) for one, other in zip(*runs, strict=True))


@pytest.mark.usefixtures("emulated")
def test_is_a_proper_operator() -> None:
    mixer = BidirectionalMixer(8, state_size=4)
    xz = torch.randn(1, 5, 32, requires_grad=True)
    arguments = (xz, mixer._parameters_of_directions(), mixer.out_proj.weight)
    torch.library.opcheck(mix_directions, arguments)


@pytest.mark.parametrize("published", [False, True])
def test_encoder_on_a_gpu(published: bool) -> None:
    """Our kernels and plain PyTorch give one encoder the same features and gradients."""
    device = require_gpu()
    torch.manual_seed(0)
    config = VideoMambaConfig(depth=3, width=96, image_size=64, frames=4, published_init=published)
    encoder = VideoMamba(config).to(device)
    clips = torch.randn(2, 4, 3, 64, 64, device=device)
    weights = torch.randn(config.width, device=device)
    results = []
    for scan in ("cuda", "chunked"):
        with scanning_by(scan):
            tokens = encoder.encode(clips).tokens
            loss = (tokens @ weights).sigmoid().mean()
            results.append((tokens, *torch.autograd.grad(loss, list(encoder.layers.parameters()))))
    for ours, expected in zip(*results, strict=True):
        assert error(ours, expected) < 1e-4


def test_compiles_on_a_gpu() -> None:
    device = require_gpu()
    mixer = BidirectionalMixer(32).to(device)
    hidden = torch.randn(2, 9, 32, device=device)
    compiled = torch.compile(mixer, fullgraph=True)
    assert error(compiled(hidden), mixer(hidden)) < 1e-5
