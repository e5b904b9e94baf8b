"""The logs of runs: what each is made of, how far it came and what was measured."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.proof.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Run:
    """A run over all commands that it took."""

    name: str
    recipe: Recipe
    facts: dict[str, Any]
    """Device, commit and command of its first part."""
    step: int
    """Of the last measurement."""
    seconds: float
    """Of training and measuring, over all parts."""
    done: bool
    measured: dict[str, float]
    """The last measurement; percentages."""
    course: tuple[tuple[int, dict[str, float]], ...]
    """Steps and what was measured there."""


def read_runs(paths: Iterable[Path]) -> list[Run]:
    """Runs of log files, by name; several parts of a run are one. Raises ValueError."""
    lines: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(paths):
        for number, text in enumerate(path.read_text(encoding="utf-8").splitlines()):
            try:
                line = json.loads(text)
                lines[line["run"]].append(line)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}, line {number + 1} is no line of a run's log") from error
    runs = [_run(name, content) for name, content in sorted(lines.items())]
    return [run for run in runs if run is not None]


def _run(name: str, lines: list[dict[str, Any]]) -> Run | None:
    """None if it never got as far as a measurement."""
    heads = sorted((line for line in lines if "recipe" in line), key=lambda h: h["first_step"])
    measured = sorted((line for line in lines if "measured" in line), key=lambda m: m["step"])
    if not heads or not measured:
        return None
    last = measured[-1]
    facts = {k: v for k, v in heads[0].items() if k not in ("run", "recipe", "first_step")}
    return Run(
        name=name,
        recipe=Recipe(**heads[-1]["recipe"]),
        facts=facts,
        step=last["step"],
        seconds=sum(line["seconds"] for line in measured if "seconds" in line),
        done=any(line.get("done", False) for line in measured),
        measured=last["measured"],
        course=tuple({line["step"]: line["measured"] for line in measured}.items()),
    )
