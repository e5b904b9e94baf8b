import pytest
import torch
from torch.nn import functional

from reelscan.models.norm import LayerNorm, RMSNorm


def test_rms_norm_by_hand():
    norm = RMSNorm(2, epsilon=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 10.0]))
    expected = torch.tensor([3 / 12.5**0.5, 40 / 12.5**0.5])
    torch.testing.assert_close(norm(torch.tensor([3.0, 4.0])), expected)


def test_rms_norm_equals_torchs():
    stream = torch.randn(4, 7, 16)
    norm = RMSNorm(16, epsilon=1e-5)
    torch.testing.assert_close(norm(stream), functional.rms_norm(stream, (16,), eps=1e-5))


def test_layer_norm_equals_torchs():
    stream = torch.randn(4, 7, 16)
    torch.testing.assert_close(LayerNorm(16)(stream), functional.layer_norm(stream, (16,)))


@pytest.mark.parametrize("kind", [RMSNorm, LayerNorm])
def test_a_float32_stream_through_bfloat16_weights(kind):
    stream = torch.randn(4, 64) * 1e4
    narrow = kind(64).bfloat16()(stream)
    assert narrow.dtype == torch.bfloat16
    assert torch.equal(narrow, kind(64)(stream).bfloat16())


def test_float64_stays_float64():
    stream = torch.randn(4, 64, dtype=torch.float64)
    assert RMSNorm(64).double()(stream).dtype == torch.float64
