"""Convolution and gating around the scans of a mixer: compiled and plain do the same.

Axes: G directions, B clips, L sequence length, D channels, K taps.
"""

import math
from unittest import mock

import pytest
import torch

from reelscan.models import directions
from reelscan.models.directions import convolve_directions, merge_directions

CASES = [(1, 2, 9, 16, 4), (2, 1, 1, 16, 4), (2, 3, 2, 32, 4), (2, 19, 33, 48, 3), (2, 2, 5, 16, 1)]


def inputs(case, *, dtype=torch.float32):
    groups, clips, length, channels, taps = case
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    both = normal(clips, length, 2 * channels).requires_grad_()
    weight = normal(groups, channels, taps).requires_grad_()
    bias = normal(groups, channels).requires_grad_()
    y = normal(groups, clips, length, channels).requires_grad_()
    return both, weight, bias, y


def run(case, *, dtype=torch.float32):
    """Both functions on halves of one tensor, and the gradients."""
    both, weight, bias, y = leaves = inputs(case, dtype=dtype)
    x, z = both.chunk(2, dim=-1)
    convolved, merged = convolve_directions(x, weight, bias), merge_directions(y, z)
    loss = sum(
        (t * torch.linspace(-1, 2, t.numel(), dtype=dtype).view_as(t)).sum()
        for t in (convolved, merged)
    )
    loss.backward()
    return [convolved, merged, *(leaf.grad for leaf in leaves)]


@pytest.mark.parametrize("case", CASES)
def test_compiled_equals_plain(case):
    pytest.importorskip("numba")
    expected = run(case, dtype=torch.float64)
    with mock.patch.object(directions, "causal_conv_silu") as plain:
        actual = run(case)
    plain.assert_not_called()
    for ours, theirs in zip(actual, expected, strict=True):
        atol = 2e-6 * theirs.abs().max().item()
        torch.testing.assert_close(ours.double(), theirs, atol=atol, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_second_direction_runs_against_the_sequence(dtype):
    both, weight, bias, _ = (t.detach() for t in inputs((2, 2, 7, 16, 4), dtype=dtype))
    x, z = both.chunk(2, dim=-1)
    first = convolve_directions(x, weight[:1], bias[:1])[0]
    second = convolve_directions(x.flip(1), weight[1:], bias[1:])[0]
    together = convolve_directions(x, weight, bias)
    torch.testing.assert_close(together, torch.stack([first, second]))
    expected = (first + second.flip(1)) * torch.nn.functional.silu(z)
    torch.testing.assert_close(merge_directions(together, z), expected)


def test_channels_that_do_not_fill_a_vector():
    case = (2, 2, 7, 10, 4)
    for ours, theirs in zip(run(case), run(case, dtype=torch.float64), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-4, rtol=1e-4)


def test_nothing_is_read_before_it_is_written(monkeypatch):
    case = (2, 5, 9, 32, 4)
    expected, empty = run(case), torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **o: empty(*a, **o).fill_(math.nan))
    for ours, theirs in zip(run(case), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_threads_do_not_change_a_bit():
    before, runs = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            runs.append(run((2, 19, 9, 32, 4)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*runs, strict=True))


def test_broadcast_and_transposed_tensors():
    case = (2, 3, 6, 16, 4)
    both, weight, bias, y = (t.detach() for t in inputs(case))
    x, z = both.chunk(2, dim=-1)
    expected = convolve_directions(x, weight, bias), merge_directions(y, z)
    turned = x.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(convolve_directions(turned, weight, bias), expected[0])
    one = torch.ones(1, 1, 1).expand(3, 6, 16).requires_grad_()
    merged = merge_directions(y, one)
    merged.sum().backward()  # a gradient without strides of its own
    torch.testing.assert_close(merged, merge_directions(y, one.contiguous()))
