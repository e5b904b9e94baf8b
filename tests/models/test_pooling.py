"""Pooling. Axes: B clips, T frames, N tokens, C model width."""

import pytest
import torch

from reelscan.models.pooling import pool_tokens

CLS = torch.tensor([[100.0]])
PATCHES = torch.tensor([[[1.0], [3.0], [10.0], [20.0]]])


@pytest.mark.parametrize(
    ("pooling", "keep_temporal", "expected"),
    [
        ("cls", False, [100.0]),
        ("cls", True, [100.0]),
        ("avg", False, [8.5]),
        ("avg", True, [2.0, 15.0]),
        ("cls+avg", False, [108.5]),
        ("cls+avg", True, [102.0, 115.0]),
        ("cls_cat_avg", False, [100.0, 8.5]),
        ("cls_cat_avg", True, [102.0, 115.0]),
    ],
)
def test_by_hand(pooling, keep_temporal, expected):
    pooled = pool_tokens(CLS, PATCHES, pooling=pooling, frames=2, keep_temporal=keep_temporal)
    torch.testing.assert_close(pooled, torch.tensor(expected).view(1, -1, 1))


def test_tokens_that_do_not_divide_into_frames():
    with pytest.raises(ValueError, match="4 visible tokens do not divide into 3 frames"):
        pool_tokens(CLS, PATCHES, pooling="avg", frames=3, keep_temporal=True)
