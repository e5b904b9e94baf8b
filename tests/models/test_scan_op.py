"""The scan as an operator of PyTorch: compile, export, transforms, and the checks PyTorch has.

Axes: G groups, B clips, L sequence length, D inner channels, S states.
"""

import io
import itertools

import pytest
import torch
from torch.utils import deterministic

from reelscan.models.scan_op import NAMES, scan_backward_op, scan_op
from reelscan.models.selective_scan import selective_scan

OPTIONAL = ("D", "z", "delta_bias", "initial_state")
SEQUENCES = ("u", "delta", "B", "C", "z")


def scan_inputs(length, *, groups=2, batch=2, channels=5, states=3, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(groups, *shape, generator=generator, dtype=dtype)

    return {
        "u": normal(batch, length, channels),
        "delta": normal(batch, length, channels) - 1,
        "A": -normal(channels, states).exp(),
        "B": normal(batch, length, states),
        "C": normal(batch, length, states),
        "D": normal(channels),
        "z": normal(batch, length, channels),
        "delta_bias": normal(channels),
        "initial_state": normal(batch, channels, states),
    }


def weighted(*tensors):
    """A loss in which every element has a weight of its own."""
    return sum(
        (t * torch.linspace(-1, 2, t.numel(), dtype=t.dtype).view_as(t)).sum() for t in tensors
    )


def gradients(inputs, *, backend, delta_softplus=True):
    leaves = {name: tensor.detach().clone().requires_grad_() for name, tensor in inputs.items()}
    result = selective_scan(**leaves, delta_softplus=delta_softplus, backend=backend)
    weighted(result.y, result.last_state).backward()
    return {"y": result.y, "state": result.last_state} | {n: t.grad for n, t in leaves.items()}


@pytest.mark.parametrize("given", [(), ("D", "delta_bias"), OPTIONAL], ids=len)
@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("chunked", torch.float64), ("fused", torch.float32), (None, torch.bfloat16)],
)
def test_opcheck(given, backend, dtype):
    inputs = scan_inputs(5, dtype=torch.float32)
    tensors = [
        inputs[name].to(dtype) if name not in OPTIONAL or name in given else None for name in NAMES
    ]
    leaves = [None if t is None else t.clone().requires_grad_() for t in tensors]
    torch.library.opcheck(scan_op, (*leaves, True, backend))
    y, last_state = scan_op(*tensors, True, backend)
    for passed_back in ((y, last_state), (y, None), (None, last_state)):
        torch.library.opcheck(scan_backward_op, (*passed_back, *tensors, True, backend))


@pytest.mark.parametrize("length", [1, 2, 7])
@pytest.mark.parametrize("softplus", [True, False])
def test_gradcheck(length, softplus):
    inputs = scan_inputs(length, channels=3, states=2)
    inputs["delta"] = inputs["delta"].abs()
    inputs["delta_bias"] = inputs["delta_bias"].abs()

    def run(*tensors):
        result = selective_scan(**dict(zip(NAMES, tensors, strict=True)), delta_softplus=softplus)
        return result.y, result.last_state

    assert torch.autograd.gradcheck(run, [inputs[name].requires_grad_() for name in NAMES])


@pytest.mark.parametrize(
    ("length", "channels", "states"),
    [(63, 5, 1), (64, 1, 16), (65, 17, 4), (197, 3, 64), (1569, 3, 2)],
)
def test_gradients_equal_those_of_the_plain_loop(length, channels, states):
    inputs = scan_inputs(length, channels=channels, states=states)
    expected = gradients(inputs, backend="reference")
    wide = gradients(inputs, backend="chunked")
    narrow = gradients({n: t.float() for n, t in inputs.items()}, backend="fused")
    for name in expected:
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(wide[name], expected[name], atol=1e-12 * scale, rtol=1e-9)
        torch.testing.assert_close(
            narrow[name].double(), expected[name], atol=3e-6 * scale, rtol=1e-4
        )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gradients_come_in_the_dtypes_of_the_inputs(dtype):
    inputs = scan_inputs(20, dtype=torch.float32)
    mixed = {n: t.to(dtype) if n in SEQUENCES else t for n, t in inputs.items()}
    expected = gradients({n: t.float() for n, t in mixed.items()}, backend="fused")
    for name, actual in gradients(mixed, backend=None).items():
        assert actual.dtype == (torch.float32 if name == "state" else mixed.get(name, actual).dtype)
        scale = expected[name].abs().max().item()
        # A sum of y's rounded to the narrow dtype passes back through.
        torch.testing.assert_close(actual.float(), expected[name], atol=0.02 * scale, rtol=0.02)


@pytest.mark.parametrize("one", ["y", "last_state"])
@pytest.mark.parametrize("backend", ["chunked", "fused"])
def test_a_gradient_of_one_output_alone(one, backend):
    inputs = scan_inputs(9, dtype=torch.float32)
    found = []
    for name in (backend, "reference"):
        leaves = {n: tensor.detach().clone().requires_grad_() for n, tensor in inputs.items()}
        weighted(
            getattr(selective_scan(**leaves, delta_softplus=True, backend=name), one)
        ).backward()
        found.append([leaf.grad for leaf in leaves.values()])
    for ours, expected in zip(*found, strict=True):
        # The last state does not depend on C, D and z.
        expected = torch.zeros_like(ours) if expected is None else expected
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("grouped", [False, True])
def test_compiled_as_one_graph(grouped):
    inputs = scan_inputs(9, dtype=torch.float32)
    if not grouped:
        inputs = {n: t[0] for n, t in inputs.items()}
    expected = gradients(inputs, backend=None)

    def run(**tensors):
        result = selective_scan(**tensors, delta_softplus=True)
        return 2 * result.y, result.last_state

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager")
    leaves = {n: t.clone().requires_grad_() for n, t in inputs.items()}
    y, state = compiled(**leaves)
    weighted(y / 2, state).backward()
    torch.testing.assert_close(y / 2, expected["y"])
    for name, leaf in leaves.items():
        torch.testing.assert_close(leaf.grad, expected[name], atol=1e-4, rtol=1e-4)


def test_exported_written_and_read_again():
    class Scan(torch.nn.Module):
        def forward(self, u, delta, A, B, C):
            return selective_scan(u, delta, A, B, C, delta_softplus=True).y

    names = ("u", "delta", "A", "B", "C")
    inputs = [scan_inputs(9, dtype=torch.float32)[name][0] for name in names]
    length = torch.export.Dim("length", min=2, max=64)
    along = [{1: length} if tensor.dim() == 3 else None for tensor in inputs]
    program = torch.export.export(Scan(), tuple(inputs), dynamic_shapes=along)
    written = io.BytesIO()
    torch.export.save(program, written)
    written.seek(0)
    read = torch.export.load(written).module()
    longer = [scan_inputs(23, dtype=torch.float32)[name][0] for name in names]
    for tensors in (inputs, longer):
        assert torch.equal(read(*tensors), Scan()(*tensors))


def test_function_transforms():
    """Gradients of single clips by vmap(grad), as one by one."""
    inputs = scan_inputs(6, groups=1, batch=3)
    inputs = {name: tensor[0] for name, tensor in inputs.items()}
    of_clip = dict.fromkeys((*SEQUENCES, "initial_state"), 0)
    in_dims = ({name: of_clip.get(name) for name in NAMES},)

    def loss(tensors):
        lead = {n: t.unsqueeze(0) if n in of_clip else t for n, t in tensors.items()}
        result = selective_scan(**lead, delta_softplus=True)
        return weighted(result.y, result.last_state)

    together = torch.func.vmap(torch.func.grad(loss), in_dims=in_dims)(inputs)
    for clip in range(3):
        alone = {n: t[clip] if n in of_clip else t for n, t in inputs.items()}
        for name, gradient in torch.func.grad(loss)(alone).items():
            torch.testing.assert_close(together[name][clip], gradient)
    _, pull_back = torch.func.vjp(lambda u: selective_scan(**inputs | {"u": u}).y, inputs["u"])
    (gradient,) = pull_back(torch.ones_like(inputs["u"]))
    leaf = inputs["u"].clone().requires_grad_()
    selective_scan(**inputs | {"u": leaf}, backend="reference").y.sum().backward()
    torch.testing.assert_close(gradient, leaf.grad)


def test_mapped_over_any_axis():
    inputs = scan_inputs(6)
    apart = torch.stack([inputs["u"], inputs["u"] * 2], dim=2)
    run = lambda u: selective_scan(**inputs | {"u": u}).y  # noqa: E731
    mapped = torch.func.vmap(run, in_dims=2, out_dims=1)(apart)
    torch.testing.assert_close(mapped[:, 0], run(inputs["u"]))
    torch.testing.assert_close(mapped[:, 1], run(inputs["u"] * 2))


@pytest.mark.parametrize("backend", ["chunked", "fused"])
def test_autocast_changes_nothing(backend):
    inputs = scan_inputs(20, dtype=torch.float32)
    expected = gradients(inputs, backend=backend)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = gradients(inputs, backend=backend)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("backend", ["chunked", "fused"])
@pytest.mark.parametrize("shift", [-1e4, -200.0, 200.0, 1e4])
def test_extreme_time_steps_give_no_nan(backend, shift):
    inputs = scan_inputs(20, dtype=torch.float32)
    inputs["delta"] = inputs["delta"] + shift
    for name, tensor in gradients(inputs, backend=backend).items():
        assert tensor.isfinite().all(), name


@pytest.mark.parametrize("backend", ["chunked", "fused"])
def test_memory_that_was_never_written_is_never_read(backend, monkeypatch):
    inputs = scan_inputs(67, dtype=torch.float32, channels=33)
    expected = gradients(inputs, backend=backend)
    filled = torch.empty(1000)
    monkeypatch.setattr(deterministic, "fill_uninitialized_memory", True)
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty_like(filled).isnan().all()
        ours = gradients(inputs, backend=backend)
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("backend", ["chunked", "fused"])
def test_the_backward_pass_holds_less_than_every_state(backend):
    """Every state of the sequence would be `every_state` bytes; the recomputed ones are few."""
    inputs = scan_inputs(4096, groups=1, batch=1, channels=64, states=16, dtype=torch.float32)
    every_state = 4096 * 64 * 16 * 4
    tensors = [inputs[name] for name in NAMES]
    y, last_state = scan_op(*tensors, True, backend)
    with torch.profiler.profile(profile_memory=True) as profiled:
        scan_backward_op(y, last_state, *tensors, True, backend)
    events = profiled.profiler.kineto_results.events()
    held = [event.nbytes() for event in events if event.name() == "[memory]"]
    peak = max(itertools.accumulate(held))
    assert 4096 * 64 * 4 < peak < every_state


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match=r"backend is 'fast'; .* cuda, fused and chunked"):
        selective_scan(**scan_inputs(3), backend="fast")
