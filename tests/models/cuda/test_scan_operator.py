"""The scan's operator on the GPU's kernels against the plain loop, the gate included.

Axes: G groups, B clips, L sequence length, D channels, S states.
"""

import pytest
import torch
from torch import Tensor

from reelscan.models.scan_backend import ScanBackend
from reelscan.models.selective_scan import selective_scan

NAMES = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")


def make_inputs(length: int, *, channels_first: bool) -> dict[str, Tensor]:
    torch.manual_seed(0)
    clips, channels, states = 2, 6, 16

    def sequence(width: int) -> Tensor:
        if channels_first:
            return torch.randn(clips, width, length).transpose(1, 2)
        return torch.randn(clips, length, width)

    return {
        "u": sequence(channels),
        "delta": sequence(channels),
        "A": -torch.rand(channels, states),
        "B": sequence(states),
        "C": sequence(states),
        "D": torch.randn(channels),
        "z": sequence(channels),
        "delta_bias": torch.randn(channels),
        "initial_state": torch.randn(clips, channels, states),
    }


def values_and_gradients(inputs: dict[str, Tensor], backend: ScanBackend) -> list[Tensor]:
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in inputs.items()}
    five = [leaves[name] for name in NAMES[:5]]
    rest = {name: leaves[name] for name in NAMES[5:]}
    found = selective_scan(
        *five,
        D=rest["D"],
        z=rest["z"],
        delta_bias=rest["delta_bias"],
        initial_state=rest["initial_state"],
        delta_softplus=True,
        backend=backend,
    )
    weights = torch.linspace(-1, 1, found.y.numel()).view_as(found.y)
    loss = (found.y * weights).sum() + found.last_state.square().sum()
    return [found.y, found.last_state, *torch.autograd.grad(loss, list(leaves.values()))]


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("length", [1, 2, 19])
@pytest.mark.parametrize("channels_first", [False, True])
def test_values_and_gradients(length: int, channels_first: bool) -> None:
    inputs = make_inputs(length, channels_first=channels_first)
    ours = values_and_gradients(inputs, "cuda")
    expected = values_and_gradients(inputs, "reference")
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
