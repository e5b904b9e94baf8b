"""The causal convolution. Axes: G groups, B clips, L sequence length, D channels, K taps."""

import pytest
import torch
from torch.nn import functional

from reelscan.models import causal_conv
from reelscan.models.causal_conv import causal_conv_silu


def conv_inputs(length, *, taps=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 3, length, 5), (2, 5, taps), (2, 5)
    return [torch.randn(*shape, generator=generator, dtype=dtype) for shape in shapes]


def grouped_convolution(x, weight, bias):
    """The same through torch's convolution, group by group."""
    results = []
    for rows, kernel, offset in zip(x, weight, bias, strict=True):
        channels, taps = kernel.shape
        padded = functional.pad(rows.transpose(1, 2), (taps - 1, 0))
        out = functional.conv1d(padded, kernel.unsqueeze(1), offset, groups=channels)
        results.append(functional.silu(out).transpose(1, 2))
    return torch.stack(results)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("taps", [1, 4])
def test_equals_torchs_convolution(length, taps, monkeypatch):
    monkeypatch.setattr(causal_conv, "CPU_BLOCK_ELEMENTS", 2 * 2 * length * 5)
    ours = [tensor.requires_grad_() for tensor in conv_inputs(length, taps=taps)]
    theirs = [tensor.detach().clone().requires_grad_() for tensor in ours]
    y, expected = causal_conv_silu(*ours), grouped_convolution(*theirs)
    torch.testing.assert_close(y, expected)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    (y * weights).sum().backward()
    (expected * weights).sum().backward()
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad)


def test_gradcheck():
    assert torch.autograd.gradcheck(
        causal_conv_silu, [tensor.requires_grad_() for tensor in conv_inputs(6)]
    )


def test_the_past_does_not_see_the_future():
    x, weight, bias = conv_inputs(8)
    changed = x.clone()
    changed[:, :, 5] += 1
    before, after = causal_conv_silu(x, weight, bias), causal_conv_silu(changed, weight, bias)
    assert torch.equal(before[:, :, :5], after[:, :, :5])
    assert not torch.equal(before[:, :, 5:], after[:, :, 5:])


def test_strided_input_and_gradient():
    x, weight, bias = conv_inputs(7)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3).requires_grad_()
    y = causal_conv_silu(strided, weight, bias)
    torch.testing.assert_close(y, causal_conv_silu(x, weight, bias))
    y.sum().backward()
    assert strided.grad is not None and strided.grad.isfinite().all()


def test_bfloat16_input_with_float32_weights():
    x, weight, bias = conv_inputs(30, dtype=torch.float32)
    weight.requires_grad_()
    y = causal_conv_silu(x.bfloat16(), weight, bias)
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert weight.grad.dtype == torch.float32
    torch.testing.assert_close(y.float(), causal_conv_silu(x, weight, bias), atol=0.1, rtol=0.05)
