"""A pass in pieces gives what the whole pass gives."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from gpu import require_gpu

from reelscan.models import roomy_tensor
from reelscan.models.long_pass import pool_long_clips
from reelscan.models.mixer import BidirectionalMixer
from reelscan.models.mixer_pieces import mix_piece
from reelscan.models.scan_backend import scanning_by
from reelscan.models.videomamba import VideoMamba, VideoMambaConfig

CONFIG = VideoMambaConfig(
    depth=3, width=32, image_size=32, frames=11, alignment_layers=0, position_init="sincos"
)


def build(config: VideoMambaConfig) -> VideoMamba:
    torch.manual_seed(0)
    encoder = VideoMamba(config).eval()
    for layer in encoder.layers:
        # At the start, directions are too much alike to tell when they are swapped.
        torch.nn.init.normal_(layer.mixer.D_b)
        torch.nn.init.normal_(layer.mixer.out_proj.weight, std=0.2)
        with torch.no_grad():
            # States that last and count, for at the start they do neither.
            for rates in (layer.mixer.A_log, layer.mixer.A_b_log):
                rates.sub_(5)
            for projection in (layer.mixer.x_proj, layer.mixer.x_proj_b):
                torch.nn.init.normal_(projection.weight, std=0.3)
    torch.nn.init.normal_(encoder.cls_token)
    return encoder


def in_pieces(encoder: VideoMamba, clips: torch.Tensor, *, piece_frames: int) -> torch.Tensor:
    return pool_long_clips(
        encoder,
        lambda first, end: clips[:, first:end],
        clips=len(clips),
        piece_frames=piece_frames,
    )


@pytest.mark.parametrize("piece_frames", [1, 2, 3, 4, 5, 10, 11, 12])
def test_any_number_of_pieces_equals_the_whole_pass(piece_frames):
    encoder = build(CONFIG)
    clips = torch.randn(2, 11, 3, 32, 32)
    with torch.no_grad():
        whole = encoder(clips).pooled
    pooled = in_pieces(encoder, clips, piece_frames=piece_frames)
    torch.testing.assert_close(pooled, whole, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"depth": 1},
        {"depth": 2, "norm": "layer", "conv_width": 1},
        {"pooling": "cls"},
        {"pooling": "avg", "conv_width": 7, "image_size": 16},
    ],
    ids=str,
)
def test_of_every_kind_of_encoder(changes):
    """With conv_width 7 and one token a frame, the taps reach over whole pieces."""
    encoder = build(replace(CONFIG, **changes))
    side = encoder.config.image_size
    clips = torch.randn(1, 11, 3, side, side)
    with torch.no_grad():
        whole = encoder(clips).pooled
    pooled = in_pieces(encoder, clips, piece_frames=2)
    torch.testing.assert_close(pooled, whole, atol=2e-5, rtol=1e-5)


def test_it_is_exact_in_double_precision():
    encoder = build(CONFIG).double()
    clips = torch.randn(1, 11, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad(), scanning_by("reference"):
        whole = encoder(clips).pooled
        pooled = in_pieces(encoder, clips, piece_frames=4)
    torch.testing.assert_close(pooled, whole, atol=1e-12, rtol=1e-12)


def test_both_ends_reach_every_frame():
    """Were nothing carried, a change at either end would stay in its piece."""
    encoder = build(CONFIG)
    clips = torch.randn(1, 11, 3, 32, 32)
    for changed_frame in (0, 10):
        other = clips.clone()
        other[:, changed_frame] += 1
        before, after = (in_pieces(encoder, c, piece_frames=2) for c in (clips, other))
        assert bool(((before - after).abs().amax(dim=-1) > 1e-5).all())


def test_directions_in_pieces_sum_to_the_mixer():
    torch.manual_seed(0)
    mixer = BidirectionalMixer(32)
    hidden = torch.randn(2, 13, 32)
    total = torch.zeros_like(hidden)
    bounds = [(0, 2), (2, 3), (3, 9), (9, 13)]
    with torch.no_grad():
        for against in (False, True):
            carried = None
            for first, end in reversed(bounds) if against else bounds:
                mixed, carried = mix_piece(mixer, hidden[:, first:end], carried, against=against)
                total[:, first:end] += mixed
        torch.testing.assert_close(total, mixer(hidden), atol=1e-6, rtol=1e-5)


def test_a_store_in_a_file_changes_nothing_and_leaves_nothing(monkeypatch, tmp_path):
    encoder = build(CONFIG)
    clips = torch.randn(1, 11, 3, 32, 32)
    expected = in_pieces(encoder, clips, piece_frames=3)
    monkeypatch.setattr(roomy_tensor, "MEMORY_BYTES", 100)
    monkeypatch.setattr(roomy_tensor.tempfile, "tempdir", str(tmp_path))
    assert torch.equal(in_pieces(encoder, clips, piece_frames=3), expected)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_told_before_work_begins(monkeypatch):
    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(roomy_tensor, "MEMORY_BYTES", 100)
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"no room for .*TMPDIR.*clip_frames"):
        roomy_tensor.roomy_tensor((1000,), torch.float32)


def test_a_large_tensor_lies_in_a_file(monkeypatch):
    monkeypatch.setattr(roomy_tensor, "MEMORY_BYTES", 100)
    tensor = roomy_tensor.roomy_tensor((3, 1000), torch.float32)
    tensor.fill_(2.0)
    assert tensor.sum() == 6000
    assert "reelscan-" in Path("/proc/self/maps").read_text()


@pytest.mark.parametrize(("autocast", "tolerance"), [(False, 2e-4), (True, 0.1)])
@pytest.mark.parametrize("memory_bytes", [100, 2**29])
def test_pieces_on_a_gpu(monkeypatch, autocast, tolerance, memory_bytes):
    """With streams on the GPU and in a file; the mixer's kernel in one meets that of pieces."""
    device = require_gpu()
    monkeypatch.setattr(roomy_tensor, "MEMORY_BYTES", memory_bytes)
    encoder = build(CONFIG).to(device)
    clips = torch.randn(2, 11, 3, 32, 32, device=device)
    with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        whole = encoder(clips).pooled
        pooled = in_pieces(encoder, clips, piece_frames=4)
    torch.testing.assert_close(pooled, whole, atol=tolerance, rtol=1e-3)
