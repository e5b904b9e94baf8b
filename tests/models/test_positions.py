"""Position tables. Axes: N positions, C model width."""

import pytest
import torch

from reelscan.models.positions import (
    inflate_patch_weight,
    interpolate_spatial,
    interpolate_temporal,
    sincos_table,
)


def test_sincos_by_hand():
    table = sincos_table(3, 4)
    assert table.dtype == torch.float32
    angles = torch.tensor([2.0, 2.0 / 100])
    expected = torch.stack([angles.sin(), angles.cos()], dim=1).flatten()
    torch.testing.assert_close(table[2], expected)


def test_a_shorter_table_is_the_start_of_a_longer_one():
    assert torch.equal(sincos_table(5, 8), sincos_table(50, 8)[:5])


def test_the_same_grid_is_handed_back():
    spatial, temporal = torch.randn(1, 17, 8), torch.randn(1, 4, 8)
    assert interpolate_spatial(spatial, side=4) is spatial
    assert interpolate_temporal(temporal, frames=4) is temporal


def test_the_class_token_is_left_alone():
    table = torch.randn(1, 17, 8)
    resized = interpolate_spatial(table, side=6)
    assert resized.shape == (1, 37, 8)
    assert torch.equal(resized[:, 0], table[:, 0])


def test_a_grid_that_is_not_square():
    with pytest.raises(ValueError, match="15 positions"):
        interpolate_spatial(torch.randn(1, 16, 8), side=4)


def test_dtype_is_kept():
    assert interpolate_spatial(torch.randn(1, 5, 8).half(), side=3).dtype == torch.float16
    assert interpolate_temporal(torch.randn(1, 5, 8).half(), frames=3).dtype == torch.float16


def test_a_still_clip_looks_the_same_to_a_mean_inflated_weight():
    weight = torch.randn(4, 3, 2, 2)
    inflated = inflate_patch_weight(weight, tubelet_size=3, how="mean")
    torch.testing.assert_close(inflated.sum(dim=2), weight)
    centre = inflate_patch_weight(weight, tubelet_size=3)
    assert torch.equal(centre[:, :, 1], weight) and not centre[:, :, [0, 2]].any()
