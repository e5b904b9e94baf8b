"""Adding and normalising in one pass."""

import pytest
import torch

from reelscan.models.cuda.add_norm import add_norm
from reelscan.models.norm import RMSNorm, add_and_norm


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("width", [4, 72, 192])
@pytest.mark.parametrize("scaled", [False, True])
def test_values_and_gradients(width: int, scaled: bool) -> None:
    torch.manual_seed(0)
    stream, added = (torch.randn(3, 5, width, requires_grad=True) for _ in range(2))
    scale = torch.tensor([1.0, 0.0, 2.0]) if scaled else None
    norm = RMSNorm(width)
    torch.nn.init.normal_(norm.weight)
    ours = add_norm(stream, added, scale, norm.weight, norm.epsilon)[:2]
    expected = add_and_norm(stream, added, scale, norm)
    grads = [torch.randn_like(one) for one in expected]
    inputs = [stream, added, norm.weight]
    found = torch.autograd.grad(ours, inputs, grads)
    wanted = torch.autograd.grad(expected, inputs, grads)
    for one, other in zip((*ours, *found), (*expected, *wanted), strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.usefixtures("emulated")
def test_an_unused_normalisation_has_no_gradient() -> None:
    stream, added = (torch.randn(1, 2, 8, requires_grad=True) for _ in range(2))
    total, _, _ = add_norm(stream, added, None, torch.ones(8), 1e-5)
    (grad,) = torch.autograd.grad(total.sum(), [stream])
    assert torch.equal(grad, torch.ones_like(stream))


@pytest.mark.usefixtures("emulated")
def test_is_a_proper_operator() -> None:
    stream, added = (torch.randn(2, 3, 8, requires_grad=True) for _ in range(2))
    weight = torch.ones(8, requires_grad=True)
    torch.library.opcheck(add_norm, (stream, added, torch.ones(2), weight, 1e-5))
