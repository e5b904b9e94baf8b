"""The choice of the implementation, and the published kernels where they are installed."""

import sys
from types import SimpleNamespace

import pytest
import torch
from gpu import require_gpu

import reelscan.models
from reelscan.models import scan_mamba_ssm
from reelscan.models.scan_backend import default_backend, use_scan
from reelscan.models.scan_mamba_ssm import published_causal_conv_silu
from reelscan.models.selective_scan import selective_scan

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _no_choice_is_left_behind():
    yield
    use_scan(None)


def inputs(device=CPU, *, dtype=torch.float32, length=70, channels=24, states=16):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(2, *shape, generator=generator).to(device)

    sequence = (3, length, channels)
    return {
        "u": normal(*sequence).to(dtype),
        "delta": normal(*sequence).to(dtype),
        "A": -normal(channels, states).exp(),
        "B": normal(3, length, states).to(dtype),
        "C": normal(3, length, states).to(dtype),
        "D": normal(channels),
        "z": normal(*sequence).to(dtype),
        "delta_bias": normal(channels),
    }


def test_a_choice_holds_for_every_scan_until_it_is_taken_back():
    tensors = inputs(dtype=torch.float32)
    use_scan("reference")
    assert default_backend(CPU, torch.float32) == ("reference", "chosen by use_scan")
    chosen = selective_scan(**tensors, delta_softplus=True).y
    assert torch.equal(
        chosen, selective_scan(**tensors, delta_softplus=True, backend="reference").y
    )
    use_scan("fused")
    with pytest.raises(ValueError, match=r"takes torch\.float32"):
        selective_scan(**{name: tensor.double() for name, tensor in tensors.items()})
    use_scan(None)
    assert default_backend(CPU, torch.float32)[0] == "fused"


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="scan is 'fast'; choose cuda, fused, chunked, mamba_ssm"):
        use_scan("fast")


@pytest.mark.parametrize(("obstacle", "chosen"), [(None, "cuda"), ("no driver", "chunked")])
def test_a_gpu_takes_its_kernels_if_they_can_run(monkeypatch, obstacle, chosen):
    fake = SimpleNamespace(why_not_available=lambda: obstacle)
    monkeypatch.setattr(reelscan.models, "scan_cuda", fake, raising=False)
    monkeypatch.setitem(sys.modules, "reelscan.models.scan_cuda", fake)
    name, reason = default_backend(CUDA, torch.float32)
    assert name == chosen
    assert obstacle is None or obstacle in reason
    assert default_backend(CUDA, torch.float64)[0] == "chunked"


def test_the_gpu_kernels_get_the_tensors_as_they_are(monkeypatch):
    seen = {}

    def forward(u, delta, A, B, C, **options):
        seen.update(u=u, A=A, B=B, **options)
        return u * 2, torch.zeros(*u.shape[:2], *A.shape[1:])

    def backward(grad_y, grad_last_state, u, delta, A, B, C, *, D, z, **options):
        seen.update(grad_y=grad_y, grad_last_state=grad_last_state)
        given = (u, delta, A, B, C, D, z, options["delta_bias"], options["initial_state"])
        return tuple(None if tensor is None else torch.ones_like(tensor) for tensor in given)

    fake = SimpleNamespace(scan_forward=forward, scan_backward=backward)
    monkeypatch.setattr(reelscan.models, "scan_cuda", fake, raising=False)
    monkeypatch.setitem(sys.modules, "reelscan.models.scan_cuda", fake)
    tensors = {n: t.requires_grad_() for n, t in inputs(dtype=torch.bfloat16).items()}
    result = selective_scan(**tensors, delta_softplus=True, backend="cuda")
    result.y.sum().backward()
    assert seen["u"].dtype == seen["B"].dtype == seen["z"].dtype == torch.bfloat16
    assert seen["A"].dtype == seen["D"].dtype == torch.float32
    assert seen["initial_state"] is None and seen["grad_last_state"] is None
    assert all(torch.equal(t.grad, torch.ones_like(t)) for t in tensors.values())


def test_published_kernels_on_a_cpu_are_refused():
    use_scan("mamba_ssm")
    with pytest.raises(ValueError, match=r"on a CUDA device; this is torch\.float32 on cpu"):
        selective_scan(**inputs())


def test_published_kernels_that_are_not_installed_are_refused_with_the_remedy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    assert "pip install 'reelscan[gpu]'" in (scan_mamba_ssm.why_not_available() or "")


def test_the_adapter_hands_over_what_the_published_kernels_expect(monkeypatch):
    """A stand-in in the published layout, channels first, that computes by our plain loop."""

    def published(u, delta, A, B, C, *, D, z, delta_bias, delta_softplus, return_last_state):
        clips, channels, length = u.shape
        groups, each = B.shape[1], channels // B.shape[1]
        assert B.shape == (clips, groups, A.shape[1], length) and return_last_state

        def ours(tensor):
            return tensor.unflatten(1, (groups, each)).permute(1, 0, 3, 2)

        def apart(tensor):
            return tensor.unflatten(0, (groups, each))

        result = selective_scan(
            *(ours(u), ours(delta), apart(A), B.permute(1, 0, 3, 2), C.permute(1, 0, 3, 2)),
            D=apart(D),
            z=ours(z),
            delta_bias=apart(delta_bias),
            delta_softplus=delta_softplus,
            backend="reference",
        )
        y = result.y.permute(1, 0, 3, 2).flatten(1, 2)
        return y, result.last_state.transpose(0, 1).flatten(1, 2)

    interface = SimpleNamespace(selective_scan_fn=published)
    monkeypatch.setattr(scan_mamba_ssm, "_check", lambda tensor: None)
    for name in ("mamba_ssm", "mamba_ssm.ops", "mamba_ssm.ops.selective_scan_interface"):
        monkeypatch.setitem(sys.modules, name, interface)
    tensors = inputs()
    ours = selective_scan(**tensors, delta_softplus=True, backend="mamba_ssm")
    expected = selective_scan(**tensors, delta_softplus=True, backend="reference")
    torch.testing.assert_close(ours.y, expected.y)
    torch.testing.assert_close(ours.last_state, expected.last_state)
    with pytest.raises(ValueError, match="takes no initial_state"):
        selective_scan(**tensors, initial_state=expected.last_state, backend="mamba_ssm")
    leaf = {"u": tensors["u"].requires_grad_()}
    state = selective_scan(**tensors | leaf, backend="mamba_ssm").last_state
    with pytest.raises(ValueError, match="no gradient of its last state"):
        state.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_published_kernels_equal_the_plain_loop_on_a_gpu(dtype):
    device = require_gpu(scan_mamba_ssm.why_not_available())
    found = {}
    for backend in ("mamba_ssm", "reference"):
        leaves = {n: t.requires_grad_() for n, t in inputs(device, dtype=dtype).items()}
        y = selective_scan(**leaves, delta_softplus=True, backend=backend).y
        y.float().square().sum().backward()
        found[backend] = {"y": y} | {name: leaf.grad for name, leaf in leaves.items()}
    for name, expected in found["reference"].items():
        atol = (1e-5 if dtype == torch.float32 else 2e-2) * expected.abs().max().item()
        torch.testing.assert_close(found["mamba_ssm"][name], expected, atol=atol, rtol=1e-2)


def test_published_convolution_equals_ours_on_a_gpu():
    from reelscan.models.causal_conv import causal_conv_silu

    device = require_gpu(scan_mamba_ssm.why_not_available())
    x = torch.randn(2, 3, 70, 24, device=device)
    weight, bias = torch.randn(2, 24, 4, device=device), torch.randn(2, 24, device=device)
    ours = causal_conv_silu(x, weight, bias)
    torch.testing.assert_close(published_causal_conv_silu(x, weight, bias), ours)
