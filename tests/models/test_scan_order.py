"""Orders in which blocks read, counted out by hand; encoders that read in them."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from gpu import require_gpu

from reelscan.models.long_pass import pool_long_clips
from reelscan.models.masks import random_mask, with_class_token
from reelscan.models.scan_order import (
    reads_temporal_first,
    reorder,
    temporal_first,
    temporal_places,
)
from reelscan.models.videomamba import VideoMamba, VideoMambaConfig

GRIDS = [(1, 1, 1), (1, 3, 2), (4, 1, 1), (2, 2, 3), (5, 3, 2)]
CONFIG = VideoMambaConfig(
    depth=4, width=16, image_size=32, frames=3, alignment_layers=3, position_init="sincos"
)


@pytest.mark.parametrize("grid", GRIDS)
def test_temporal_first_goes_through_all_times_of_a_place(grid):
    frames, rows, columns = grid
    numbers = {
        token: number
        for number, token in enumerate(product(range(frames), range(rows), range(columns)))
    }
    expected = [
        numbers[frame, row, column]
        for row in range(rows)
        for column in range(columns)
        for frame in range(frames)
    ]
    assert temporal_first(grid).tolist() == expected


@pytest.mark.parametrize("grid", GRIDS)
def test_masked_tokens_are_left_out_of_the_order(grid):
    tokens = grid[0] * grid[1] * grid[2]
    shown = max(1, tokens // 2)
    generator = torch.Generator().manual_seed(0)
    visible = torch.stack([torch.randperm(tokens, generator=generator) < shown for _ in range(3)])
    places = temporal_places(grid, visible, device=torch.device("cpu"))
    for row, shown_row in zip(places, visible, strict=True):
        stream = [-1, *shown_row.nonzero()[:, 0].tolist()]
        read = [stream[place] for place in row]
        assert read == [-1, *(t for t in temporal_first(grid).tolist() if shown_row[t])]


def test_half_of_the_blocks_of_a_hybrid_read_either_way():
    assert [reads_temporal_first("hybrid", block) for block in range(4)] == [0, 1, 0, 1]
    assert not any(reads_temporal_first("spatial-first", block) for block in range(4))
    assert all(reads_temporal_first("temporal-first", block) for block in range(4))


def build(order: str, **changes) -> VideoMamba:
    torch.manual_seed(0)
    encoder = VideoMamba(replace(CONFIG, scan_order=order, **changes)).eval()
    torch.nn.init.normal_(encoder.cls_token)
    for layer in encoder.layers:
        torch.nn.init.normal_(layer.mixer.out_proj.weight, std=0.2)
    return encoder


def by_hand(encoder: VideoMamba, stream: torch.Tensor, order: torch.Tensor) -> torch.Tensor:
    """Every block told on its own, with the tokens brought into its order and back."""
    for index, layer in enumerate(encoder.layers):
        if reads_temporal_first(encoder.config.scan_order, index):
            mixed = torch.empty_like(stream)
            mixed[:, order] = layer.mixer(layer.norm(stream[:, order]))
        else:
            mixed = layer.mixer(layer.norm(stream))
        stream = stream + mixed
    return encoder.norm(stream)


@pytest.mark.parametrize("order", ["spatial-first", "temporal-first", "hybrid"])
@pytest.mark.parametrize("depth", [3, 4])
def test_an_encoder_reads_in_the_order_and_answers_in_its_own(order, depth):
    encoder = build(order, depth=depth)
    clips = torch.randn(2, 3, 3, 32, 32)
    with torch.no_grad():
        stream = encoder.embed_piece(clips, first=0)
        positions = torch.cat([torch.zeros(1, dtype=torch.long), 1 + temporal_first((3, 2, 2))])
        features = encoder.encode(clips)
        torch.testing.assert_close(features.tokens, by_hand(encoder, stream, positions))
    # The last aligned stream is the sum before the last mixer, in the usual order.
    shortened = build(order, depth=depth)
    shortened.load_state_dict(encoder.state_dict())
    with torch.no_grad():
        for layer in shortened.layers[-1:]:
            layer.mixer.out_proj.weight.zero_()
        before_last = shortened.norm(features.aligned[-1])
        torch.testing.assert_close(before_last, shortened.encode(clips).tokens)


def test_orders_differ():
    clips = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        outputs = [
            build(order).encode(clips).tokens
            for order in ("spatial-first", "temporal-first", "hybrid")
        ]
    assert not any(
        torch.allclose(outputs[i], outputs[j], atol=1e-3) for i, j in ((0, 1), (0, 2), (1, 2))
    )


@pytest.mark.parametrize("order", ["temporal-first", "hybrid"])
def test_a_masked_pass_equals_one_over_the_visible_tokens(order):
    """Each clip alone, told by hand which of its tokens there are; gradients flow."""
    encoder = build(order)
    clips = torch.randn(2, 3, 3, 32, 32)
    generator = torch.Generator().manual_seed(1)
    mask = with_class_token(random_mask(2, (3, 2, 2), ratio=0.5, generator=generator))
    assert not torch.equal(mask[0], mask[1])
    tokens = encoder.encode(clips, mask=mask).tokens
    for clip, hidden, found in zip(clips, mask, tokens, strict=True):
        with torch.no_grad():
            stream = encoder.embed_piece(clip[None], first=0)[:, ~hidden]
            places = temporal_places((3, 2, 2), ~hidden[None, 1:], device=torch.device("cpu"))
            torch.testing.assert_close(found[None], by_hand(encoder, stream, places[0]))
    tokens.sum().backward()
    assert encoder.layers[0].mixer.in_proj.weight.grad.abs().sum() > 0


def test_an_image_has_one_order():
    clips = torch.randn(2, 1, 3, 32, 32)
    with torch.no_grad():
        tokens = [build(order).encode(clips).tokens for order in ("spatial-first", "hybrid")]
    torch.testing.assert_close(*tokens)


def test_rows_may_come_from_places_of_their_own():
    stream = torch.arange(12.0).view(2, 3, 2)
    moved = reorder(stream, torch.tensor([[0, 2, 1], [2, 1, 0]]))
    assert moved[:, :, 0].tolist() == [[0, 4, 2], [10, 8, 6]]


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match=r"scan_order is 'diagonal'; choose one of spatial-first"):
        VideoMambaConfig(scan_order="diagonal")
    with pytest.raises(ValueError, match="reads hybrid"):
        pool_long_clips(build("hybrid"), lambda first, end: None, clips=1, piece_frames=1)


@pytest.mark.parametrize("order", ["temporal-first", "hybrid"])
def test_a_gpu_reads_in_the_same_order(order):
    device = require_gpu()
    encoder = build(order)
    clips = torch.randn(2, 3, 3, 32, 32)
    mask = with_class_token(random_mask(2, (3, 2, 2), ratio=0.5))
    with torch.no_grad():
        expected = encoder.encode(clips, mask=mask).tokens
        found = encoder.to(device).encode(clips.to(device), mask=mask.to(device)).tokens
    torch.testing.assert_close(found.cpu(), expected, atol=1e-3, rtol=1e-3)
