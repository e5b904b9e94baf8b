"""Times the scan kernels cut in different ways, to choose what scan_plan.py says. Needs a GPU.

python benchmarks/scan_tuning.py forward --clips 64 --length 1569
python benchmarks/scan_tuning.py both --clips 8 --length 12545 --slices 1 12 24
"""

import argparse
import itertools
import json
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import torch
from benchmarks.gpu_timing import measure

from reelscan.models.cuda.scan import new_checkpoints, run_backward, run_forward
from reelscan.models.cuda.scan_inputs import ForwardOutputs, ScanInputs
from reelscan.models.cuda.scan_plan import BackwardPlan, ForwardPlan


def make_inputs(clips: int, length: int, channels: int, groups: int) -> ScanInputs:
    """bfloat16 inputs whose time steps start as Mamba's do."""
    shape, wide = (groups, clips, length), {"device": "cuda", "dtype": torch.float32}
    steps = torch.empty(groups, channels, **wide).uniform_(-6.9, -2.3).exp()
    narrow = {"device": "cuda", "dtype": torch.bfloat16}
    BC = torch.randn(*shape, 72, **narrow)
    return ScanInputs(
        u=torch.randn(*shape, channels, **narrow),
        delta=0.5 * torch.randn(*shape, channels, **narrow),
        B=BC[..., 40:56],
        C=BC[..., 56:],
        A=-torch.arange(1, 17, **wide).repeat(groups, channels, 1),
        D=torch.ones(groups, channels, **wide),
        bias=steps + torch.log(-torch.expm1(-steps)),
        softplus=True,
    )


def chunk_steps(length: int, chunks: int) -> int:
    return math.ceil(math.ceil(length / chunks) / 64) * 64


FORWARD_CUTS = [
    (1, 64),
    (2, 16),
    (2, 32),
    (2, 64),
    (2, 128),
    (4, 8),
    (4, 16),
    (4, 32),
    (8, 8),
    (8, 16),
    (16, 8),
]
"""Lanes and channels of a block."""


def forward_plans(
    length: int, chunks: list[int], lanes: list[int], slices: list[int]
) -> list[ForwardPlan]:
    """Plans with and without a bound on registers."""
    return [
        ForwardPlan(
            lanes=lane,
            channels=channels,
            chunks=-(-length // chunk_steps(length, chunk)),
            chunk_steps=chunk_steps(length, chunk),
            fma_exponentials=fma_exponentials,
            unrolled=unrolled,
            resident=resident,
            slices=slice_count,
        )
        for (lane, channels), chunk in itertools.product(FORWARD_CUTS, chunks)
        for slice_count in slices
        if lane in lanes
        for fma_exponentials in (0, 1)
        for unrolled in ((2, 4, 8) if lane <= 4 else (1,))
        for resident in (1, 4, 5)
        if resident * channels * lane <= 1024
    ]


def backward_plans(length: int, chunks: list[int]) -> list[BackwardPlan]:
    cuts = [
        (4, 2, 2, 1),
        (4, 2, 2, 2),
        (4, 2, 3, 2),
        (4, 2, 4, 2),
        (4, 2, 4, 4),
        (4, 2, 5, 4),
        (8, 2, 1, 1),
        (8, 2, 2, 2),
        (4, 1, 5, 2),
        (2, 2, 8, 2),
    ]
    return [
        BackwardPlan(
            warps=warps,
            per_thread=per,
            chunks=-(-length // chunk_steps(length, chunk)),
            chunk_steps=chunk_steps(length, chunk),
            fma_exponentials=fma,
            resident=resident,
            parts=parts,
        )
        for chunk in chunks
        for warps, per, resident, parts in cuts
        for fma in (0, 1)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pass_", choices=["forward", "both", "backward", "checkpoints"])
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--length", type=int, default=1569)
    parser.add_argument("--channels", type=int, default=1152)
    parser.add_argument("--groups", type=int, default=1)
    parser.add_argument("--chunks", type=int, nargs="+", default=[1])
    parser.add_argument("--lanes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--slices", type=int, nargs="+", default=[1])
    parser.add_argument("--best", type=int, default=6)
    given = parser.parse_args()
    both = given.pass_ == "both"
    inputs = make_inputs(given.clips, given.length, given.channels, 2 if both else given.groups)
    inputs = replace(inputs, reversed_groups=0b10 if both else 0)
    y, checkpoints = torch.empty_like(inputs.u), new_checkpoints(inputs)
    z = torch.randn_like(inputs.u)
    run_forward(inputs, ForwardOutputs(y=y, checkpoints=checkpoints))
    wanted = checkpoints if given.pass_ == "checkpoints" else None

    def work(plan: ForwardPlan | BackwardPlan) -> Callable[[], object]:
        if isinstance(plan, BackwardPlan):
            return lambda: run_backward(inputs, y, checkpoints, plan=plan)
        outputs = ForwardOutputs(y=y[:1] if both else y, checkpoints=wanted)
        return lambda: run_forward(inputs, outputs, z=z, plan=plan, meets=both)

    plans: Sequence[ForwardPlan | BackwardPlan] = (
        backward_plans(given.length, given.chunks)
        if given.pass_ == "backward"
        else forward_plans(given.length, given.chunks, given.lanes, given.slices)
    )
    with ThreadPoolExecutor(16) as pool:  # NVRTC compiles without holding the interpreter.
        for _ in pool.map(lambda plan: work(plan)(), plans):
            pass
    torch.cuda.synchronize()
    timed = sorted((measure(work(plan), captured=True).milliseconds, str(plan)) for plan in plans)
    print(f"# {given}")
    for time, plan in timed[: given.best]:
        print(json.dumps({"ms": round(time, 4), "plan": plan}))
    print(f"# slowest {timed[-1]}", flush=True)


if __name__ == "__main__":
    main()
