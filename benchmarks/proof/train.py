"""Trains one arm, for as long as a command may take; the next command takes it up.

    python -m benchmarks.proof.train --clips /tmp/proof-clips --arm videomamba --steps 4000 \\
        --to OUT --stop-after 540
    python -m benchmarks.proof.train ... --to OUT2 --resume OUT/snapshot

--steps is the length of the whole run; --minutes in its place is measured out at the start. In
--to: NAME-STEP.jsonl, a line every 20 steps and at every measurement, and snapshot/, under 40 MB
for size ti. The last line printed is JSON.
"""

import argparse
import gc
import json
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args

import torch
from benchmarks.proof.feeder import Examples, load_examples
from benchmarks.proof.loop import run
from benchmarks.proof.recipe import ARMS, SIZES, Recipe
from benchmarks.proof.session import Session, teacher_for
from benchmarks.proof.snapshot import TEACHER_FILE, read_state

from reelscan.models.scan_order import ScanOrder
from reelscan.pretrain.pretrain_config import MASK_KINDS

_TIMED_STEPS, _FIRST_STEPS = 10, 4


def main() -> None:
    given = _arguments().parse_args()
    started = time.perf_counter()
    device = torch.device(given.device)
    recipe = _recipe(given)
    examples = load_examples(
        given.clips, image_size=SIZES[recipe.size].image_size, device=device, most_clips=given.most
    )
    print(f"clips on {device} after {time.perf_counter() - started:.0f} s", flush=True)
    teacher = _teacher(given, recipe, examples)
    if given.plan:
        for arm in ARMS:
            print(json.dumps(plan(replace(recipe, arm=arm), examples, teacher)), flush=True)
        return
    if given.minutes and given.resume is None:
        recipe = replace(recipe, steps=steps_in(60 * given.minutes, recipe, examples, teacher))
        print(f"{given.minutes} minutes are {recipe.steps} steps", flush=True)
    session = Session(recipe, examples, teacher=teacher, cuda_graphs=not given.no_graphs)
    if given.resume is not None:
        session.resume(given.resume)
    elif given.start is not None:
        session.start_from(given.start)
    name = given.name or f"{recipe.arm}-{recipe.size}-seed{recipe.seed}"
    if given.resume is not None:
        name = str(read_state(given.resume)["name"])
    given.to.mkdir(parents=True, exist_ok=True)
    measured = run(
        session,
        given.to / f"{name}-{session.step:06d}.jsonl",
        name=name,
        measure_every=given.measure_every,
        time_is_up=lambda margin: time.perf_counter() - started + margin > given.stop_after,
        on_stop=lambda: session.save(given.to / "snapshot", name=name),
    )
    summary = {
        "run": name,
        "step": session.step,
        "steps": recipe.steps,
        "done": session.is_done,
        "skipped_steps": session.skipped,
        "seconds": round(time.perf_counter() - started, 1),
        "peak_gib": _peak_gib(device),
    }
    print(json.dumps({**summary, **measured}))


def _teacher(given: argparse.Namespace, recipe: Recipe, examples: Examples) -> Path | None:
    """That of the snapshot, which has none past its masked steps, or one trained now."""
    if given.resume is not None:
        kept: Path = given.resume / TEACHER_FILE
        return kept if kept.is_file() else None
    if not recipe.needs_teacher:
        return None
    return teacher_for(
        recipe.size, examples, folder=given.work, steps=3 if given.tiny else given.teacher_steps
    )


def plan(recipe: Recipe, examples: Examples, teacher: Path | None) -> dict[str, Any]:
    """What a run will take, as measured in a few steps of both stages."""
    masked, whole = step_seconds(recipe, examples, teacher)
    hidden = recipe.masked_steps
    seconds = hidden * masked + (recipe.steps - hidden) * whole
    return {
        "arm": recipe.arm,
        "size": recipe.size,
        "masked_step_seconds": round(masked, 4),
        "whole_step_seconds": round(whole, 4),
        "clips_per_second": round(recipe.steps * recipe.batch / seconds, 1),
        "steps": recipe.steps,
        "minutes": round(seconds / 60, 1),
        "peak_gib": _peak_gib(examples.clips_uint8.device),
    }


def steps_in(seconds: float, recipe: Recipe, examples: Examples, teacher: Path | None) -> int:
    """Steps of a recipe that take so many seconds, measured in a few of both stages."""
    masked, whole = step_seconds(recipe, examples, teacher)
    share = recipe.masked_fraction
    return max(1, int(seconds / (share * masked + (1 - share) * whole)))


def step_seconds(
    recipe: Recipe, examples: Examples, teacher: Path | None, smaller: Path | None = None
) -> tuple[float, float]:
    """Seconds of a masked step and of one with all visible; trains a model that is thrown away."""
    timed = replace(recipe, steps=1000, masked_fraction=max(recipe.masked_fraction, 0.5))
    session = Session(timed, examples, teacher=teacher, smaller=smaller)
    found = []
    for sees_all in (False, True):
        if sees_all:
            session.enter_unmasked_stage()
        for _ in range(_FIRST_STEPS):
            session.take_step()
        started = time.perf_counter()
        for _ in range(_TIMED_STEPS):
            session.take_step()
        found.append((time.perf_counter() - started) / _TIMED_STEPS)
    del session
    gc.collect()
    if examples.clips_uint8.is_cuda:
        torch.cuda.empty_cache()
    return found[0], found[1]


def _peak_gib(device: torch.device) -> float | None:
    if device.type != "cuda":
        return None
    return round(torch.cuda.max_memory_allocated(device) / 2**30, 2)


def _recipe(given: argparse.Namespace) -> Recipe:
    """Of a snapshot, or of the arguments."""
    if given.resume is not None:
        plain = read_state(given.resume)["recipe"]
        assert isinstance(plain, dict)
        return Recipe(**plain)
    changed = {f.name: getattr(given, f.name) for f in fields(Recipe)}
    if given.tiny:
        changed |= {"size": "tiny", "batch": 8, "steps": 6}
    return Recipe(**changed)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("/tmp/proof"), help="for the teacher")
    parser.add_argument("--name")
    parser.add_argument("--resume", type=Path, help="snapshot; its recipe stands for all options")
    parser.add_argument("--start", type=Path, help="snapshot whose weights a new run starts from")
    parser.add_argument("--stop-after", type=float, default=540.0, help="seconds, start included")
    parser.add_argument("--minutes", type=float, help="of training, in place of --steps")
    parser.add_argument("--plan", action="store_true", help="only say how long each arm takes")
    parser.add_argument("--measure-every", type=int, default=250)
    parser.add_argument("--most", type=int, help="training clips to use")
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--no-graphs", action="store_true")
    parser.add_argument("--tiny", action="store_true", help="a few steps: to see that it runs")
    choices = {
        "arm": ARMS,
        "size": tuple(SIZES),
        "mask": MASK_KINDS,
        "scan_order": get_args(ScanOrder),
    }
    for field in fields(Recipe):
        option = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(
                option, action=argparse.BooleanOptionalAction, default=field.default
            )
        else:
            parser.add_argument(
                option,
                type=type(field.default),
                default=field.default,
                choices=choices.get(field.name),
            )
    return parser


if __name__ == "__main__":
    main()
