"""The published ablations in kind, at a reduced size: several runs side by side on one GPU.

    python -m benchmarks.proof.ablations --clips /tmp/proof-clips --to OUT --jobs 6
    python -m benchmarks.proof.ablations ... --have benchmarks/results/proof    # what is left

Says first how long all runs take, as measured side by side. Runs that no longer fit into
--stop-after are left to the next command, which skips those whose logs lie under --have. In --to:
one file, ablations-NNN.jsonl, of the runs that were finished. The last line printed is JSON.
"""

import argparse
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path

import torch
from benchmarks.proof.feeder import Examples, load_examples
from benchmarks.proof.loop import run
from benchmarks.proof.recipe import SIZES, Recipe
from benchmarks.proof.runs import read_runs
from benchmarks.proof.session import Session, teacher_for, teacher_path
from benchmarks.proof.train import step_seconds

_WITHOUT_GRAPHS = 1.5
"""How much longer a run takes at most whose blocks are launched one by one."""
_RESERVE_SECONDS = 15
SMALLER, DISTILLED = "smaller", "distillation"
BASE = "base"
"""Attention mask, last layer aligned, spatial-first, no self-distillation."""


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the processes find and leave things."""

    clips: Path
    work: Path
    most_clips: int
    device: str
    size: str

    def snapshot(self, name: str) -> Path:
        return self.work / "snapshots" / name

    def log(self, name: str) -> Path:
        return self.work / "logs" / f"{name}.jsonl"


@dataclass(frozen=True, kw_only=True)
class Task:
    """A run to be made."""

    variant: str
    recipe: Recipe

    @property
    def name(self) -> str:
        return f"ablation-{self.variant}-seed{self.recipe.seed}"


def variants(base: Recipe) -> dict[str, Recipe]:
    """Each differs from the base in one respect; `smaller` is what `distillation` follows."""
    return {
        SMALLER: replace(base, size="tiny" if base.size == "tiny" else "smaller"),
        BASE: base,
        "mask-none": replace(base, mask="none"),
        "mask-random": replace(base, mask="random"),
        "mask-tube": replace(base, mask="tube"),
        "mask-clip-row": replace(base, mask="clip_row"),
        "mask-frame-row": replace(base, mask="frame_row"),
        "multi-layer": replace(base, alignment_layers=3),
        "no-alignment": replace(base, alignment=0.0),
        "temporal-first": replace(base, scan_order="temporal-first"),
        "hybrid": replace(base, scan_order="hybrid"),
        DISTILLED: replace(base, distillation=1.0),
    }


def main() -> None:
    given = _arguments().parse_args()
    deadline = time.time() + given.stop_after
    base = Recipe(
        size="tiny" if given.tiny else "reduced",
        steps=4 if given.tiny else given.steps,
        batch=8 if given.tiny else given.batch,
        learning_rate=given.learning_rate,
        masked_fraction=given.masked_fraction,
    )
    place = Place(
        clips=given.clips,
        work=given.work,
        most_clips=given.most,
        device=given.device,
        size=base.size,
    )
    tasks = _tasks(base, seeds=given.seeds, only=given.only)
    left = _left(tasks, have=given.have, place=place)
    given.to.mkdir(parents=True, exist_ok=True)
    _make_teacher(place, steps=3 if given.tiny else given.teacher_steps)
    out = given.to / f"ablations-{len(tasks) - len(left):03d}.jsonl"
    finished = _run_all(left, place, jobs=given.jobs, deadline=deadline, out=out, plan=given.plan)
    print(
        json.dumps(
            {
                "runs": len(tasks),
                "had": len(tasks) - len(left),
                "finished": finished,
                "left": len(left) - finished,
                "log": str(out),
            }
        )
    )


def _tasks(base: Recipe, *, seeds: int, only: Sequence[str]) -> list[Task]:
    """Smaller encoders first, as others wait for them; then seed by seed."""
    found = variants(base)
    unknown = set(only) - set(found)
    if unknown:
        raise ValueError(f"no such variants: {sorted(unknown)}; choose from {', '.join(found)}")
    tasks = [
        Task(variant=name, recipe=replace(recipe, seed=seed))
        for seed in range(seeds)
        for name, recipe in found.items()
        if not only or name in only
    ]
    return sorted(tasks, key=lambda task: task.variant != SMALLER)


def _left(tasks: list[Task], *, have: Path | None, place: Place) -> list[Task]:
    """Without those whose logs are at hand, of the same recipe; a smaller encoder must be here."""
    done = {}
    if have is not None:
        done = {r.name: r.recipe for r in read_runs(have.glob("ablations-*.jsonl")) if r.done}
    left = [task for task in tasks if done.get(task.name) != task.recipe]
    waiting = {task.recipe.seed for task in left if task.variant == DISTILLED}
    return [
        task
        for task in tasks
        if task in left
        or (
            task.variant == SMALLER
            and task.recipe.seed in waiting
            and not place.snapshot(task.name).is_dir()
        )
    ]


def _make_teacher(place: Place, *, steps: int) -> None:
    if not teacher_path(place.size, place.work).is_file():
        teacher_for(place.size, _examples(place), folder=place.work, steps=steps)


def _run_all(
    tasks: list[Task], place: Place, *, jobs: int, deadline: float, out: Path, plan: bool
) -> int:
    """Runs finished, whose logs are in `out`."""
    if not tasks:
        return 0
    jobs = min(jobs, len(tasks))
    context = get_context("spawn")
    finished = 0
    for task in tasks:
        place.log(task.name).unlink(missing_ok=True)
    with ProcessPoolExecutor(
        jobs,
        mp_context=context,
        initializer=_prepare,
        initargs=(place, context.Barrier(jobs)),
    ) as pool:
        base = next((t.recipe for t in tasks if t.variant == BASE), tasks[0].recipe)
        timed = [pool.submit(_time_steps, base) for _ in range(jobs)]
        masked, whole = (max(times) for times in zip(*(f.result() for f in timed), strict=True))
        expected = {task.name: _seconds(task.recipe, masked, whole) for task in tasks}
        _tell_plan(expected, jobs=jobs, seconds_left=deadline - time.time())
        if plan:
            return 0
        running = _submit(
            pool, tasks, {n: deadline - 1.1 * e - _RESERVE_SECONDS for n, e in expected.items()}
        )
        with out.open("w", encoding="utf-8") as log:
            names = {task.name for task in tasks}
            for future in as_completed(running):
                finished += future.result()
                for name in [n for n in names if place.log(n).is_file()]:
                    names.remove(name)
                    log.write(place.log(name).read_text(encoding="utf-8"))
                    log.flush()
    return finished


def _submit(
    pool: ProcessPoolExecutor, tasks: list[Task], latest_starts: dict[str, float]
) -> list[Future[bool]]:
    """Distillation waits for the smaller encoders, which are the first runs of all."""
    smaller: dict[int, Future[bool]] = {}
    running: list[Future[bool]] = []
    for task in sorted(tasks, key=lambda task: task.variant == DISTILLED):
        seed = task.recipe.seed
        if task.variant == DISTILLED and seed in smaller and not smaller[seed].result():
            continue
        running.append(pool.submit(_make, task, latest_starts[task.name]))
        if task.variant == SMALLER:
            smaller[seed] = running[-1]
    return running


def _seconds(recipe: Recipe, masked: float, whole: float) -> float:
    hides = 0 if recipe.mask == "none" else recipe.masked_steps
    seconds = hides * masked + (recipe.steps - hides) * whole
    return seconds if recipe.scan_order == "spatial-first" else _WITHOUT_GRAPHS * seconds


def _tell_plan(expected: dict[str, float], *, jobs: int, seconds_left: float) -> None:
    total = sum(expected.values()) / jobs
    print(
        f"{len(expected)} runs, {jobs} side by side: {max(expected.values()):.0f} s a run at most, "
        f"about {total / 60:.1f} min in all; this command has {seconds_left / 60:.1f} min left",
        flush=True,
    )


_HERE: dict[str, tuple[Place, Barrier, Examples]] = {}
"""Of a worker process: read once for all of its runs."""


def _examples(place: Place) -> Examples:
    return load_examples(
        place.clips,
        image_size=SIZES[place.size].image_size,
        device=torch.device(place.device),
        most_clips=place.most_clips,
    )


def _prepare(place: Place, barrier: Barrier) -> None:
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // barrier.parties))
    _HERE["here"] = (place, barrier, _examples(place))


def _time_steps(recipe: Recipe) -> tuple[float, float]:
    """Seconds of a masked and of a whole step while all processes take such steps."""
    place, barrier, examples = _HERE["here"]
    barrier.wait()
    return step_seconds(recipe, examples, teacher_path(place.size, place.work))


def _make(task: Task, latest_start: float) -> bool:
    """Whether the run was made; not if it is too late to begin."""
    place, _, examples = _HERE["here"]
    if time.time() > latest_start:
        return False
    smaller = f"ablation-{SMALLER}-seed{task.recipe.seed}"
    session = Session(
        task.recipe,
        examples,
        teacher=teacher_path(place.size, place.work),
        smaller=place.snapshot(smaller) if task.variant == DISTILLED else None,
    )
    unfinished = place.log(task.name).with_suffix(".unfinished")
    unfinished.parent.mkdir(parents=True, exist_ok=True)
    measured = run(
        session,
        unfinished,
        name=task.name,
        measure_every=max(1, task.recipe.steps // 4),
        time_is_up=lambda _: False,
        on_stop=lambda: (
            session.save(place.snapshot(task.name)) if task.variant == SMALLER else None
        ),
    )
    unfinished.replace(place.log(task.name))
    print(f"{task.name}: T2V R@1 {measured['t2v_r1']}, pairs {measured['pairs']}", flush=True)
    return True


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--clips", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--have", type=Path, help="folder with logs of finished runs")
    parser.add_argument("--work", type=Path, default=Path("/tmp/proof"))
    parser.add_argument("--jobs", type=int, default=6)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=[], help="variants; by default all")
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--learning-rate", type=float, default=1.5e-3)
    parser.add_argument("--masked-fraction", type=float, default=0.6)
    parser.add_argument("--most", type=int, default=20_000, help="training clips to use")
    parser.add_argument("--teacher-steps", type=int, default=1500)
    parser.add_argument("--stop-after", type=float, default=560.0, help="seconds, start included")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--plan", action="store_true", help="only say how long it takes")
    parser.add_argument("--tiny", action="store_true", help="a few steps: to see that it runs")
    return parser


if __name__ == "__main__":
    main()
