"""The selective scan: both implementations, every input's gradient, every way to cut the work.

Axes: G groups, B clips, L sequence length, D inner channels, S states.
"""

import math
from unittest import mock

import pytest
import torch

from reelscan.models import scan_chunked
from reelscan.models.selective_scan import selective_scan

ODD_LENGTHS = [1, 2, 7, 8, 9, 27, 65]


@pytest.fixture
def small_cuts(monkeypatch):
    """Blocks of one clip and chunks of four steps, so that small inputs cross every seam."""
    monkeypatch.setattr(scan_chunked, "CPU_BUFFER_ELEMENTS", 100)
    monkeypatch.setattr(scan_chunked, "CHUNK_STEPS", (4, 4))


def scan_inputs(length, *, batch=3, channels=5, states=3, groups=None, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    lead = () if groups is None else (groups,)

    def normal(*shape):
        return torch.randn(*lead, *shape, generator=generator, dtype=dtype)

    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels),
        "A": -normal(channels, states).exp(),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels),
        "initial_state": normal(batch, channels, states),
    }


def scan_with_gradients(inputs, *, backend="chunked", delta_softplus=True):
    """y, last state and the gradient of each input, with uneven weights on both outputs."""
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in inputs.items()}
    result = selective_scan(**leaves, delta_softplus=delta_softplus, backend=backend)
    loss = sum(
        (tensor * torch.linspace(-1, 2, tensor.numel(), dtype=tensor.dtype).view_as(tensor)).sum()
        for tensor in (result.y, result.last_state)
    )
    loss.backward()
    return {"y": result.y, "last_state": result.last_state} | {k: t.grad for k, t in leaves.items()}


def assert_same(actual, expected, **tolerance):
    assert actual.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(
            actual[key], expected[key], msg=lambda text, key=key: f"{key}: {text}", **tolerance
        )


@pytest.mark.parametrize("length", ODD_LENGTHS)
@pytest.mark.parametrize("groups", [None, 2])
def test_chunked_equals_reference_in_values_and_gradients(length, groups, small_cuts):
    inputs = scan_inputs(length, groups=groups)
    assert_same(scan_with_gradients(inputs), scan_with_gradients(inputs, backend="reference"))


@pytest.mark.parametrize("left_out", ["D", "z", "delta_bias", "initial_state", "delta_softplus"])
def test_optional_inputs_can_be_left_out(left_out, small_cuts):
    inputs = scan_inputs(9)
    if left_out == "delta_softplus":
        inputs["delta"] = inputs["delta"].abs()
        inputs["delta_bias"] = inputs["delta_bias"].abs()
    inputs.pop(left_out, None)
    softplus = left_out != "delta_softplus"
    ours = scan_with_gradients(inputs, delta_softplus=softplus)
    assert_same(ours, scan_with_gradients(inputs, backend="reference", delta_softplus=softplus))


def test_default_cuts_equal_reference_at_a_usual_size():
    inputs = scan_inputs(67, batch=9, channels=96, states=16, dtype=torch.float32)
    wide = {key: tensor.double() for key, tensor in inputs.items()}
    ours, expected = scan_with_gradients(inputs), scan_with_gradients(wide, backend="reference")
    for key in expected:
        scale = expected[key].abs().max().item()
        torch.testing.assert_close(ours[key].double(), expected[key], atol=2e-6 * scale, rtol=1e-4)


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("length", [1, 3, 6])
def test_gradcheck(backend, length, small_cuts):
    inputs = scan_inputs(length, batch=2, channels=2, states=2)
    names = list(inputs)

    def run(*tensors):
        arguments = dict(zip(names, tensors, strict=True))
        result = selective_scan(**arguments, delta_softplus=True, backend=backend)
        return result.y, result.last_state

    assert torch.autograd.gradcheck(run, [inputs[name].requires_grad_() for name in names])


def test_by_hand():
    result = selective_scan(
        torch.tensor([[[2.0], [3.0]]]),
        torch.tensor([[[0.5], [1.0]]]),
        torch.tensor([[-1.0]]),
        torch.tensor([[[4.0], [5.0]]]),
        torch.tensor([[[1.0], [10.0]]]),
        D=torch.tensor([0.5]),
    )
    first = 0.5 * 4 * 2
    second = math.exp(-1) * first + 1.0 * 5 * 3
    torch.testing.assert_close(result.y.flatten(), torch.tensor([first + 1, 10 * second + 1.5]))
    torch.testing.assert_close(result.last_state.flatten(), torch.tensor([second]))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_a_sequence_in_two_parts_equals_the_whole(backend, small_cuts):
    inputs = scan_inputs(13)
    whole = scan_with_gradients(inputs, backend=backend)
    leaves = {key: tensor.detach().clone().requires_grad_() for key, tensor in inputs.items()}
    along = {"u", "delta", "B", "C", "z"}

    def part(window, state):
        sliced = {key: t[:, window] if key in along else t for key, t in leaves.items()}
        sliced["initial_state"] = state
        return selective_scan(**sliced, delta_softplus=True, backend=backend)

    first = part(slice(0, 6), leaves["initial_state"])
    second = part(slice(6, 13), first.last_state)
    y = torch.cat([first.y, second.y], dim=1)
    weights = torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)
    last = second.last_state
    (y * weights).sum().backward(retain_graph=True)
    (last * torch.linspace(-1, 2, last.numel(), dtype=y.dtype).view_as(last)).sum().backward()
    gradients = {key: tensor.grad for key, tensor in leaves.items()}
    assert_same({"y": y, "last_state": last} | gradients, whole)


def test_nothing_is_read_before_it_is_written(small_cuts, monkeypatch):
    inputs = scan_inputs(11, dtype=torch.float32)
    expected = scan_with_gradients(inputs)
    poisoned = []

    def poison(make):
        def made(*args, **options):
            tensor = make(*args, **options)
            poisoned.append(tensor.numel())
            return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

        return made

    monkeypatch.setattr(torch, "empty", poison(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poison(torch.empty_like))
    assert_same(scan_with_gradients(inputs), expected)
    assert len(poisoned) > 5


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@pytest.mark.parametrize("shift", [-200.0, -30.0, 30.0, 200.0])
def test_extreme_time_steps_stay_finite(backend, shift):
    inputs = scan_inputs(9, dtype=torch.float32)
    inputs["delta"] = inputs["delta"] + shift
    for key, tensor in scan_with_gradients(inputs, backend=backend).items():
        assert tensor.isfinite().all(), key


def test_alternating_extreme_time_steps_equal_reference(small_cuts):
    inputs = scan_inputs(12)
    inputs["delta"][:, ::2] += 60
    inputs["delta"][:, 1::2] -= 60
    ours = scan_with_gradients(inputs)
    assert_same(ours, scan_with_gradients(inputs, backend="reference"), atol=1e-8, rtol=1e-6)


def test_strided_inputs(small_cuts):
    inputs = scan_inputs(10)
    channels_first = {
        key: tensor.transpose(-1, -2).contiguous().transpose(-1, -2) if tensor.dim() > 1 else tensor
        for key, tensor in inputs.items()
    }
    doubled = {key: tensor.repeat_interleave(2, dim=-1)[..., ::2] for key, tensor in inputs.items()}
    expected = scan_with_gradients(inputs)
    for strided in (channels_first, doubled):
        leaves = {key: tensor.requires_grad_() for key, tensor in strided.items()}
        result = selective_scan(**leaves, delta_softplus=True)
        torch.testing.assert_close(result.y, expected["y"])
        # A gradient without strides of its own, as sum() makes it.
        result.y.sum().backward()
        assert all(leaf.grad is not None for leaf in leaves.values())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    inputs = {key: t.to(dtype) for key, t in scan_inputs(20, dtype=torch.float32).items()}
    result = selective_scan(**inputs, delta_softplus=True)
    wide = {key: tensor.float() for key, tensor in inputs.items()}
    expected = selective_scan(**wide, delta_softplus=True)
    assert result.y.dtype == dtype
    assert result.last_state.dtype == torch.float32
    assert torch.equal(result.y, expected.y.to(dtype))
    assert torch.equal(result.last_state, expected.last_state)


def test_autocast_leaves_the_scan_alone():
    inputs = scan_inputs(20, dtype=torch.float32)
    expected = scan_with_gradients(inputs)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = scan_with_gradients(inputs)
    assert_same(ours, expected)


def test_groups_equal_scans_of_their_own(small_cuts):
    inputs = scan_inputs(9, groups=3)
    together = selective_scan(**inputs, delta_softplus=True)
    for group in range(3):
        alone = selective_scan(**{k: t[group] for k, t in inputs.items()}, delta_softplus=True)
        torch.testing.assert_close(together.y[group], alone.y)
        torch.testing.assert_close(together.last_state[group], alone.last_state)


def test_inference_equals_training():
    inputs = scan_inputs(30)
    with torch.no_grad():
        result = selective_scan(**inputs, delta_softplus=True)
    torch.testing.assert_close(result.y, scan_with_gradients(inputs)["y"])


def test_only_inputs_and_some_states_are_kept_for_the_backward_pass():
    inputs = scan_inputs(256, batch=2, channels=16, states=8, dtype=torch.float32)
    kept = []
    leaves = {key: tensor.requires_grad_() for key, tensor in inputs.items()}
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: kept.append(t.numel()) or t, lambda t: t
    ):
        selective_scan(**leaves, delta_softplus=True)
    every_state = 2 * 256 * 16 * 8
    assert sum(kept) < every_state


def test_inputs_are_not_changed():
    inputs = scan_inputs(9)
    before = {key: tensor.clone() for key, tensor in inputs.items()}
    scan_with_gradients(inputs)
    with torch.no_grad():
        selective_scan(**inputs, delta_softplus=True)
    assert_same(inputs, before, atol=0, rtol=0)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("delta", (3, 4, 6)),
        ("A", (6, 3)),
        ("B", (3, 4, 2)),
        ("C", (3, 5, 3)),
        ("D", (1,)),
        ("z", (3, 4)),
        ("delta_bias", (3,)),
        ("initial_state", (3, 3, 5)),
    ],
)
def test_shapes_that_do_not_fit(name, shape):
    inputs = scan_inputs(4) | {name: torch.zeros(shape)}
    with pytest.raises(ValueError, match=f"^{name} is"):
        selective_scan(**inputs)


def test_an_empty_sequence_is_refused():
    with pytest.raises(ValueError, match="no axis empty"):
        selective_scan(**scan_inputs(0))


def test_a_matrix_without_groups_beside_grouped_sequences_is_refused():
    inputs = scan_inputs(4, groups=2)
    inputs["A"] = inputs["A"][0]
    with pytest.raises(ValueError, match=r"A is .* give \[D, S\] or \[G, D, S\]"):
        selective_scan(**inputs)


def test_work_is_cut_evenly_and_covers_everything():
    with mock.patch.object(scan_chunked, "CPU_BUFFER_ELEMENTS", 8 * 20 * 3072):
        u, A = torch.empty(1, 64, 27, 192), torch.empty(1, 192, 16)
        assert scan_chunked._cut(u, A) == (16, 9)
