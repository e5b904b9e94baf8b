"""Compiling for a GPU where there is none: NVRTC needs no device."""

import pytest

from reelscan.models.cuda import compiler
from reelscan.models.cuda.arguments import pack_arguments
from reelscan.models.cuda.compiler import KernelError, compiled_kernel, nvrtc
from reelscan.models.cuda.gate import GATE
from reelscan.models.cuda.launcher import Macros
from reelscan.models.cuda.scan import BACKWARD, CARRY, FORWARD
from reelscan.models.cuda.scan_plan import plan_backward, plan_forward

HOPPER = (9, 0)


@pytest.fixture(autouse=True)
def needs_nvrtc(monkeypatch: pytest.MonkeyPatch, tmp_path: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("REELSCAN_CACHE", str(tmp_path))
    try:
        nvrtc()
    except KernelError as error:
        pytest.skip(str(error))


def element_macros(element: int, *, vector: int) -> Macros:
    return (("ELEMENT", element), ("VECTOR", vector), ("SOFTPLUS", 1), ("STATES", 16))


@pytest.mark.parametrize("element", [0, 1, 2])
@pytest.mark.parametrize("sequences", [1, 16, 128])
def test_the_scan_compiles_as_planned(element: int, sequences: int) -> None:
    sizes = {"length": 1569, "channels": 1152, "states": 16, "multiprocessors": 132}
    plan = plan_forward(sequences=sequences, meets=True, **sizes)
    lanes: Macros = (
        ("LANES", plan.lanes),
        ("CHANNELS", plan.channels),
        ("STEPS", 16),
        ("WIDE", 1),
        ("FMA_EXPONENTIALS", plan.fma_exponentials),
    )
    wanted: Macros = (
        ("UNROLLED", plan.unrolled),
        ("RESIDENT", plan.resident),
        ("GATED", 1),
        ("ADDED", 0),
        ("WRITES", 1),
        ("MEETS", int(plan.chunks == 1)),
        ("SLICED", int(plan.chunks == 1 and sequences == 16)),
        ("CHECKPOINT", 16),
    )
    elements = element_macros(element, vector=1)
    assert compiled_kernel(FORWARD.text((*elements, *lanes, *wanted)), capability=HOPPER)
    source = CARRY.text((*elements, *lanes, ("GRADIENT", 1)))
    assert compiled_kernel(source, capability=HOPPER)
    backward = plan_backward(sequences=sequences, **sizes)
    cut: Macros = (
        ("WARPS", backward.warps),
        ("PER", backward.per_thread),
        ("STEPS", 16),
        ("PARTS", backward.parts),
        ("RESIDENT", backward.resident),
        ("FMA_EXPONENTIALS", 0),
    )
    assert compiled_kernel(BACKWARD.text((*elements, *cut)), capability=HOPPER)


def test_what_was_compiled_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    source = GATE.text((("ELEMENT", 1), ("VECTOR", 1)))
    first = compiled_kernel(source, capability=HOPPER)
    monkeypatch.setattr(compiler, "_compile", lambda *_: pytest.fail("compiled again"))
    assert compiled_kernel(source, capability=HOPPER) == first


def test_an_error_shows_the_compilers_words() -> None:
    with pytest.raises(KernelError, match="nonsense"):
        compiled_kernel("nonsense", capability=HOPPER)


def test_a_newer_gpu_gets_code_that_its_driver_compiles() -> None:
    assert b".target" in compiled_kernel("__global__ void f() {}", capability=(99, 0))


def test_an_older_gpu_is_refused_in_words() -> None:
    with pytest.raises(KernelError, match=r"compute capability 3\.0"):
        compiled_kernel("__global__ void f() {}", capability=(3, 0))


def test_arguments_must_be_those_declared() -> None:
    with pytest.raises(AssertionError, match="declared"):
        pack_arguments("int a; float* b;", {"a": 1})
    assert pack_arguments("int a; float* b;", {"a": 1, "b": None}) == bytes([1] + 15 * [0])
