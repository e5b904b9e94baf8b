"""The compiled scan against the reference in float64.

Axes: G groups, B clips, L sequence length, D inner channels, S states.
"""

import math
import subprocess
import sys

import pytest
import torch

from reelscan.models import scan_backend as choice
from reelscan.models.selective_scan import default_backend, selective_scan

pytest.importorskip("numba")
SEQUENCES = ("u", "delta", "B", "C")


def scan_inputs(length, *, groups=2, batch=2, channels=16, states=3, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(groups, *shape, generator=generator)

    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels) - 2,
        "A": -normal(channels, states).exp(),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
        "delta_bias": normal(channels),
        "initial_state": normal(batch, channels, states),
    }


def weights_like(tensor):
    return torch.linspace(-1, 2, tensor.numel(), dtype=tensor.dtype).view_as(tensor)


def scan_with_gradients(inputs, *, backend="fused", delta_softplus=True):
    """y, last state and the gradient of each input, with uneven weights on both outputs."""
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in inputs.items()}
    result = selective_scan(**leaves, delta_softplus=delta_softplus, backend=backend)
    loss = sum((t * weights_like(t)).sum() for t in (result.y, result.last_state))
    loss.backward()
    return {"y": result.y, "last_state": result.last_state} | {k: t.grad for k, t in leaves.items()}


def assert_right(inputs, **options):
    """Values and gradients, each to a few float32 roundings of its largest element."""
    wide = {key: tensor.double() for key, tensor in inputs.items()}
    expected = scan_with_gradients(wide, backend="reference", **options)
    for key, actual in scan_with_gradients(inputs, **options).items():
        atol = 2e-6 * expected[key].abs().max().item() + 1e-30
        torch.testing.assert_close(
            actual.double(),
            expected[key],
            atol=atol,
            rtol=1e-4,
            msg=lambda text, key=key: f"{key}: {text}",
        )


@pytest.mark.parametrize("length", [1, 2, 7, 63, 64, 65, 197, 1569])
def test_lengths(length):
    assert_right(scan_inputs(length))


@pytest.mark.parametrize("channels", [1, 3, 33, 130, 160])
def test_channels(channels):
    assert_right(scan_inputs(19, channels=channels))


@pytest.mark.parametrize("states", [1, 2, 5, 8, 16, 64])
def test_states(states):
    assert_right(scan_inputs(70, groups=1, states=states))


@pytest.mark.parametrize("batch", [1, 9, 17])
def test_clips(batch):
    assert_right(scan_inputs(9, groups=3, batch=batch))


@pytest.mark.parametrize("left_out", ["D", "delta_bias", "initial_state", "delta_softplus"])
def test_optional_inputs_can_be_left_out(left_out):
    inputs = scan_inputs(9)
    inputs["delta"] = inputs["delta"].abs()
    inputs["delta_bias"] = inputs["delta_bias"].abs()
    inputs.pop(left_out, None)
    assert_right(inputs, delta_softplus=left_out != "delta_softplus")


def test_rates_that_grow():
    inputs = scan_inputs(9)
    inputs["A"] = -inputs["A"]
    assert_right(inputs)


def test_strided_inputs():
    inputs = scan_inputs(20)
    doubled = {key: tensor.repeat_interleave(2, dim=-1)[..., ::2] for key, tensor in inputs.items()}
    turned = {key: t.transpose(-1, -2).contiguous().transpose(-1, -2) for key, t in inputs.items()}
    expected = scan_with_gradients(inputs)
    for strided in (doubled, turned):
        leaves = {key: tensor.detach().requires_grad_() for key, tensor in strided.items()}
        result = selective_scan(**leaves, delta_softplus=True, backend="fused")
        assert torch.equal(result.y, expected["y"])
        # A gradient without strides of its own, as sum() makes it.
        result.y.sum().backward()
        assert all(leaf.grad.isfinite().all() for leaf in leaves.values())


@pytest.mark.parametrize("shift", [-1e30, -200.0, -30.0, 30.0, 200.0])
def test_extreme_time_steps(shift):
    inputs = scan_inputs(20)
    inputs["delta"] = inputs["delta"] + shift
    for key, tensor in scan_with_gradients(inputs).items():
        assert tensor.isfinite().all(), key
    if shift > -1e30:
        assert_right(inputs)


def test_decays_that_underflow_are_zero():
    inputs = scan_inputs(5)
    inputs["delta"][:, :, 3] = 1e6
    inputs["u"][:, :, 3] = 0
    parts = {key: t[:, :, :4] if key in SEQUENCES else t for key, t in inputs.items()}
    result = selective_scan(**parts, delta_softplus=True, backend="fused")
    assert torch.equal(result.last_state, torch.zeros_like(result.last_state))


@pytest.mark.parametrize("key", ["u", "delta", "A", "B", "C", "initial_state"])
def test_not_a_number_is_handed_on(key):
    inputs = scan_inputs(5)
    inputs[key].view(-1)[0] = math.nan
    assert selective_scan(**inputs, delta_softplus=True, backend="fused").y[0, 0].isnan().any()


def test_a_sequence_in_two_parts_equals_the_whole():
    inputs = scan_inputs(90)
    whole = scan_with_gradients(inputs)
    leaves = {key: tensor.clone().requires_grad_() for key, tensor in inputs.items()}

    def part(window, state):
        sliced = {key: t[:, :, window] if key in SEQUENCES else t for key, t in leaves.items()}
        sliced["initial_state"] = state
        return selective_scan(**sliced, delta_softplus=True, backend="fused")

    first = part(slice(0, 41), leaves["initial_state"])
    second = part(slice(41, None), first.last_state)
    y, last = torch.cat([first.y, second.y], dim=2), second.last_state
    ((y * weights_like(y)).sum() + (last * weights_like(last)).sum()).backward()
    torch.testing.assert_close(y, whole["y"])
    torch.testing.assert_close(last, whole["last_state"])
    for key, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, whole[key], atol=1e-3, rtol=1e-4)


def test_nothing_is_read_before_it_is_written(monkeypatch):
    inputs = scan_inputs(50, channels=33, batch=5)
    expected = scan_with_gradients(inputs)
    poisoned = []
    empty = torch.empty

    def poison(*args, **options):
        poisoned.append(args)
        return empty(*args, **options).fill_(math.nan)

    monkeypatch.setattr(torch, "empty", poison)
    actual = scan_with_gradients(inputs)
    assert len(poisoned) > 10
    assert all(torch.equal(actual[key], expected[key]) for key in expected)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_do_not_change_a_bit(threads):
    inputs = scan_inputs(70, batch=11, channels=160, states=8)
    before = torch.get_num_threads()
    runs = []
    try:
        for count in (1, threads, threads):
            torch.set_num_threads(count)
            runs.append(scan_with_gradients(inputs))
    finally:
        torch.set_num_threads(before)
    for run in runs[1:]:
        assert all(torch.equal(run[key], runs[0][key]) for key in run)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_inference_equals_training(mode):
    inputs = scan_inputs(30)
    with mode():
        result = selective_scan(**inputs, delta_softplus=True, backend="fused")
    assert torch.equal(result.y, scan_with_gradients(inputs)["y"])


def test_inputs_are_not_changed():
    inputs = scan_inputs(9)
    before = {key: tensor.clone() for key, tensor in inputs.items()}
    scan_with_gradients(inputs)
    with torch.no_grad():
        selective_scan(**inputs, delta_softplus=True, backend="fused")
    assert all(torch.equal(inputs[key], before[key]) for key in inputs)


def test_only_inputs_and_some_states_are_kept_for_the_backward_pass():
    kept = []
    leaves = {key: t.requires_grad_() for key, t in scan_inputs(256, states=16).items()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        selective_scan(**leaves, delta_softplus=True, backend="fused")
    every_state = 2 * 2 * 256 * 16 * 16
    assert sum(kept) < every_state / 2


def test_a_second_derivative_is_refused():
    inputs = {key: tensor.requires_grad_() for key, tensor in scan_inputs(4).items()}
    y = selective_scan(**inputs, backend="fused").y
    (gradient,) = torch.autograd.grad(y.square().sum(), inputs["u"], create_graph=True)
    with pytest.raises(RuntimeError, match="can be differentiated once"):
        gradient.sum().backward()


def test_float64_is_refused():
    inputs = {key: tensor.double() for key, tensor in scan_inputs(4).items()}
    with pytest.raises(ValueError, match=r"u is torch.float64 on cpu; .* torch.float32"):
        selective_scan(**inputs, backend="fused")


def test_the_default_follows_device_and_dtype():
    assert default_backend(torch.device("cpu"), torch.float32)[0] == "fused"
    assert default_backend(torch.device("cpu"), torch.float64)[0] == "chunked"
    assert default_backend(torch.device("cuda"), torch.float64)[0] == "chunked"


def test_without_numba_the_chunked_scan_is_taken_and_the_reason_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    for name in ("scan_fused", "scan_kernels", "scan_backward_kernels", "simd_lanes"):
        monkeypatch.delitem(sys.modules, f"reelscan.models.{name}", raising=False)
    import reelscan.models

    monkeypatch.delattr(reelscan.models, "scan_fused", raising=False)
    choice._why_not_fused.cache_clear()
    try:
        name, reason = default_backend(torch.device("cpu"), torch.float32)
    finally:
        choice._why_not_fused.cache_clear()
    assert name == "chunked"
    assert "numba" in reason


def test_a_forked_process_has_threads_of_its_own():
    """A pool's threads do not survive a fork, and waiting for them would take for ever."""
    program = """
import os, torch
from reelscan.models.kernel_threads import run_tasks
torch.set_num_threads(2)
run_tasks(lambda first, stop: None, 8)
child = os.fork()
if child == 0:
    done = []
    run_tasks(lambda first, stop: done.extend(range(first, stop)), 8)
    os._exit(0 if sorted(done) == list(range(8)) else 1)
assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_numba_may_be_unable_to_keep_what_it_compiled(monkeypatch):
    from reelscan.models import simd_lanes

    njit = simd_lanes.numba.njit

    def refuse(function, **options):
        if options.get("cache"):
            raise RuntimeError("cannot cache function: no locator available")
        return njit(function, **options)

    monkeypatch.setattr(simd_lanes.numba, "njit", refuse)
    assert simd_lanes.kernel(lambda number: number + 1)(1) == 2


def test_kept_kernels_are_compiled_anew_when_what_they_are_built_from_changes():
    from reelscan.models import direction_kernels, scan_backward_kernels, scan_kernels
    from reelscan.models.simd_lanes import sources_digest

    for compiled in (
        scan_kernels.forward_tasks,
        scan_backward_kernels.backward_tasks,
        direction_kernels.merge,
    ):
        assert compiled._cache._cache_file._source_stamp[1] == sources_digest()


@pytest.mark.parametrize("by_bits", [False, True])
def test_powers_of_two(by_bits):
    import numpy as np

    from reelscan.models import simd_lanes
    from reelscan.models.simd_lanes import LANES, load, store

    power = simd_lanes._exp2_from_bits if by_bits else simd_lanes.exp2

    @simd_lanes.numba.njit
    def run(x, y):
        for at in range(0, x.size, LANES):
            store(y, at, power(load(x, at)))

    x = np.linspace(-125, 127, 64_000, dtype=np.float32)
    y = np.empty_like(x)
    run(x, y)
    exact = np.exp2(x.astype(np.float64))
    assert (np.abs(y - exact) / exact).max() < 2.5e-7
    edge = np.array([0, -1, 1, -1e30, -np.inf, 200, 1e30, np.nan, *[-300] * 8], dtype=np.float32)
    found = np.empty_like(edge)
    run(edge, found)
    assert found[:7].tolist() == [1, 0.5, 2, 0, 0, math.inf, math.inf]
    assert np.isnan(found[7]) and (found[8:] == 0).all()
