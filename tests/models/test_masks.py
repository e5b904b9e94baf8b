"""Masks, True = hidden. Axes: B clips, T x H x W tokens of a clip."""

import pytest
import torch

from reelscan.models.masks import (
    attention_mask,
    clip_row_mask,
    frame_row_mask,
    hide_undrawn,
    random_mask,
    tube_mask,
    with_class_token,
)

PUBLISHED_GRID = (8, 14, 14)
DRAWN = [random_mask, tube_mask, clip_row_mask, frame_row_mask]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(
    ("mask", "hidden"),
    [
        (random_mask, 1254),
        (tube_mask, 8 * 156),
        (clip_row_mask, 88 * 14),
        (frame_row_mask, 88 * 14),
    ],
)
def test_published_counts(mask, hidden):
    masks = mask(3, PUBLISHED_GRID, ratio=0.8, generator=seeded())
    assert masks.dtype == torch.bool and masks.shape == (3, *PUBLISHED_GRID)
    assert masks.flatten(1).sum(1).tolist() == [hidden] * 3


@pytest.mark.parametrize("mask", DRAWN)
def test_clips_differ_and_seeds_repeat(mask):
    masks = mask(2, PUBLISHED_GRID, ratio=0.5, generator=seeded())
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks, mask(2, PUBLISHED_GRID, ratio=0.5, generator=seeded()))
    assert not torch.equal(masks, mask(2, PUBLISHED_GRID, ratio=0.5, generator=seeded(1)))


@pytest.mark.parametrize("mask", DRAWN)
def test_every_position_is_hidden_as_often(mask):
    share = mask(4000, (2, 4, 3), ratio=0.5, generator=seeded()).float().mean(0)
    assert (share - 0.5).abs().max() < 0.05


@pytest.mark.parametrize("mask", DRAWN)
def test_ratio_zero_hides_nothing(mask):
    assert not mask(2, (2, 3, 4), ratio=0.0, generator=seeded()).any()


@pytest.mark.parametrize("mask", DRAWN)
@pytest.mark.parametrize("ratio", [-0.1, 1.0, 80])
def test_ratio_out_of_range(mask, ratio):
    with pytest.raises(ValueError, match="mask ratio"):
        mask(1, (2, 3, 4), ratio=ratio)


def test_tubes_are_the_same_in_every_frame():
    masks = tube_mask(2, PUBLISHED_GRID, ratio=0.8, generator=seeded())
    assert (masks == masks[:, :1]).all()


@pytest.mark.parametrize("mask", [clip_row_mask, frame_row_mask])
def test_rows_are_whole(mask):
    masks = mask(2, PUBLISHED_GRID, ratio=0.8, generator=seeded())
    assert (masks == masks[..., :1]).all()


def test_frame_rows_are_as_many_in_each_frame_and_differ():
    rows = frame_row_mask(2, PUBLISHED_GRID, ratio=0.8, generator=seeded())[..., 0]
    assert (rows.sum(-1) == 11).all()
    assert not (rows == rows[:, :1]).all()
    uneven = clip_row_mask(2, PUBLISHED_GRID, ratio=0.8, generator=seeded())[..., 0].sum(-1)
    assert len(set(uneven.flatten().tolist())) > 1


def test_the_first_drawn_stay_visible():
    draws = torch.tensor([[2, 0, 3, 1], [1, 3, 0, 2]])
    expected = torch.tensor([[True, True, False, True], [True, False, True, True]])
    assert torch.equal(hide_undrawn(draws, ratio=0.75), expected)


def test_attention_keeps_what_the_teacher_looks_at():
    attention = torch.full((2 * 4, 9), 1e-4)
    attention[:, 4] = 1.0
    masks = attention_mask(attention, (4, 3, 3), ratio=0.8, generator=seeded())
    assert masks.shape == (2, 4, 3, 3)
    assert (masks.flatten(2).sum(-1) == 7).all()
    assert not masks[:, :, 1, 1].any()


def test_attention_of_zero_can_be_drawn():
    attention = torch.zeros(2, 9)
    attention[:, 0] = 1.0
    masks = attention_mask(attention, (2, 3, 3), ratio=0.5, generator=seeded())
    assert (masks.flatten(2).sum(-1) == 4).all() and not masks[:, :, 0, 0].any()


def test_attention_of_another_grid():
    with pytest.raises(ValueError, match=r"attention is \(8, 9\)"):
        attention_mask(torch.ones(8, 9), (3, 3, 3), ratio=0.5)


def test_the_class_token_comes_first_and_is_visible():
    masks = with_class_token(torch.ones(2, 2, 3, 3, dtype=torch.bool))
    assert masks.shape == (2, 19) and masks.dtype == torch.bool
    assert not masks[:, 0].any() and masks[:, 1:].all()
