"""The scan's kernels against the plain loop in float64: on the CPU by emulation, and on a GPU."""

import math

import pytest
import torch
from tests.support.gpu import require_gpu
from tests.support.scan_cases import Case, worst_errors

from reelscan.models.cuda.scan_plan import BackwardPlan, ForwardPlan


def cut(
    lanes: int, channels: int, *, chunks: int = 1, length: int = 0, unrolled: int = 1
) -> ForwardPlan:
    chunk_steps = math.ceil(max(length, 64) / chunks / 64) * 64
    return ForwardPlan(
        lanes=lanes,
        channels=channels,
        chunks=-(-max(length, 1) // chunk_steps),
        chunk_steps=chunk_steps,
        fma_exponentials=3,
        unrolled=unrolled,
    )


def cut_backward(
    warps: int, per_thread: int, *, chunks: int = 1, length: int = 0, parts: int = 1
) -> BackwardPlan:
    steps = math.ceil(max(length, 64) / chunks / 64) * 64
    return BackwardPlan(
        warps=warps,
        per_thread=per_thread,
        chunks=-(-max(length, 1) // steps),
        chunk_steps=steps,
        fma_exponentials=1,
        parts=parts,
    )


CASES = {
    "one step": Case(length=1, channels=8),
    "two steps": Case(length=2, channels=8, reversed_groups=1),
    "odd channels": Case(length=7, channels=5, states=3),
    "both directions": Case(groups=2, clips=2, length=37, channels=36, reversed_groups=0b10),
    "around a tile": Case(length=63, channels=8),
    "a whole tile": Case(length=64, channels=8, reversed_groups=1),
    "past a tile": Case(length=65, channels=12),
    "image": Case(length=197, channels=8, reversed_groups=1),
    "from a state": Case(length=33, channels=12, start=True),
    "no softplus": Case(length=33, channels=12, softplus=False),
    "columns": Case(length=20, channels=8, strided=True),
    "odd columns": Case(length=20, channels=7, states=5, strided=True),
    "one state": Case(length=20, channels=8, states=1),
    "64 states": Case(length=20, channels=8, states=64),
    "bfloat16": Case(clips=2, length=33, channels=12, dtype=torch.bfloat16, reversed_groups=1),
    "float16": Case(length=33, channels=9, dtype=torch.float16),
}
CUTS = {
    "one lane": (cut(1, 64), cut_backward(1, 4)),
    "two lanes": (cut(2, 64, unrolled=2), cut_backward(2, 2, parts=2)),
    "four lanes": (cut(4, 16), cut_backward(4, 1)),
    "eight lanes": (cut(8, 8), cut_backward(4, 2)),
    "sixteen lanes": (cut(16, 8), cut_backward(2, 1)),
}


def limit(case: Case) -> float:
    return {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}[case.dtype]


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients(name: str) -> None:
    errors = worst_errors(CASES[name])
    assert all(error < limit(CASES[name]) for error in errors.values()), errors


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("name", CUTS)
def test_every_cut_gives_the_same(name: str) -> None:
    plan, backward = CUTS[name]
    case = Case(
        groups=2,
        length=34,
        channels=20,
        reversed_groups=0b01,
        plan=plan,
        backward_plan=backward,
    )
    errors = worst_errors(case)
    assert all(error < 1e-5 for error in errors.values()), errors


@pytest.mark.usefixtures("emulated")
@pytest.mark.parametrize("lanes", [1, 2, 4, 8])
def test_chunks_hand_their_state_on(lanes: int) -> None:
    length = 200
    case = Case(
        groups=2,
        length=length,
        channels=12,
        reversed_groups=0b10,
        start=True,
        plan=cut(lanes, {1: 64, 2: 64, 4: 32, 8: 16}[lanes], chunks=3, length=length),
        backward_plan=cut_backward(1, 2, chunks=3, length=length, parts=2),
    )
    assert case.plan is not None and case.plan.chunks > 1
    errors = worst_errors(case)
    assert all(error < 1e-5 for error in errors.values()), errors


GPU_CASES = {
    **CASES,
    "eight frames": Case(groups=2, clips=2, length=1569, channels=96, reversed_groups=0b10),
    "64 frames": Case(clips=1, length=12545, channels=40, reversed_groups=1, start=True),
}


@pytest.mark.parametrize("name", GPU_CASES)
def test_on_a_gpu(name: str) -> None:
    device = require_gpu()
    errors = worst_errors(GPU_CASES[name], device)
    assert all(error < limit(GPU_CASES[name]) for error in errors.values()), errors
