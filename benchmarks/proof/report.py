"""The logs of the proof as a section of docs/results.md: tables, and what they say.

    python -m benchmarks.proof.report --logs benchmarks/results/proof --to docs/results.md

Replaces what lies between its two markers in the file, or adds it at the end.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev

from benchmarks.proof.ablations import BASE, DISTILLED, SMALLER
from benchmarks.proof.runs import Run, read_runs

from reelscan.models.atomic_file import write_atomically

START, END = "<!-- proof: start -->", "<!-- proof: end -->"
GOAL_RECALL, GOAL_PAIRS = 80.0, 95.0
ARM_NAMES = {
    "videomamba": "VideoMamba",
    "frames": "the same encoder, frames read one by one and averaged",
    "vit": "joint space-time ViT",
}
THEMES: dict[str, dict[str, str]] = {
    "Masks (the paper's best: attention)": {
        BASE: "attention",
        "mask-none": "none",
        "mask-random": "random",
        "mask-tube": "tube",
        "mask-clip-row": "clip row",
        "mask-frame-row": "frame row",
    },
    "Aligned layers": {BASE: "the last", "multi-layer": "the last three"},
    "Scan order (the paper's best: spatial-first)": {
        BASE: "spatial-first",
        "temporal-first": "temporal-first",
        "hybrid": "hybrid",
    },
    "Alignment": {BASE: "with", "no-alignment": "without"},
    "Self-distillation": {BASE: "without", DISTILLED: "with", SMALLER: "the smaller encoder"},
}
PAPER_BEST = {
    "Masks (the paper's best: attention)": BASE,
    "Scan order (the paper's best: spatial-first)": BASE,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--logs", type=Path, default=Path("benchmarks/results/proof"))
    parser.add_argument("--to", type=Path, default=Path("docs/results.md"))
    given = parser.parse_args()
    runs = read_runs(given.logs.glob("*.jsonl"))
    if not runs:
        raise SystemExit(f"{given.logs} holds no log with a measurement; train first")
    earlier = given.to.read_text(encoding="utf-8") if given.to.is_file() else "# Results\n"
    write_atomically(given.to, put_between(earlier, report(runs)).encode())
    print(f"{len(runs)} runs -> {given.to}")


def put_between(text: str, section: str) -> str:
    """The text with the section between its markers."""
    marked = f"{START}\n{section}\n{END}"
    if START in text and END in text:
        before, rest = text.split(START, 1)
        return before + marked + rest.split(END, 1)[1]
    return f"{text.rstrip()}\n\n{marked}\n"


def report(runs: Sequence[Run]) -> str:
    """The section, in Markdown."""
    arms = [run for run in runs if not run.name.startswith("ablation-")]
    ablations = [run for run in runs if run.name.startswith("ablation-") and run.done]
    parts = ["## Pretraining learns time"]
    if arms:
        parts += [_arms(arms), _goals(arms), _commands(arms)]
    if ablations:
        parts.append(_ablations_intro(ablations))
        parts += [_theme(title, names, ablations) for title, names in THEMES.items()]
    return "\n\n".join(parts)


def _arms(arms: Sequence[Run]) -> str:
    rows = [
        "| encoder | parameters | clips seen | minutes | T2V R@1 | R@5 | R@10 | V2T R@1 | pairs | "
        "order | direction | undecided | pairs, undecided as half |",
        "|" + 13 * "---|",
    ]
    for run in arms:
        found = run.measured
        unfinished = "" if run.done else f" (step {run.step} of {run.recipe.steps})"
        rows.append(
            f"| {ARM_NAMES[run.recipe.arm]}{unfinished} | "
            f"{run.facts['vision_parameters'] / 1e6:.1f} M | "
            f"{run.step * run.recipe.batch / 1e6:.2f} M | {run.seconds / 60:.1f} | "
            + " | ".join(
                _number(found, name)
                for name in (
                    *("t2v_r1", "t2v_r5", "t2v_r10", "v2t_r1"),
                    *("pairs", "order_pairs", "direction_pairs", "undecided_pairs", "even_pairs"),
                )
            )
            + " |"
        )
    return (
        "Zero-shot on held-out compositions of the demo generator at full difficulty, percent. "
        "Pairs show the same frames in another order (chance 50); *undecided* captions score "
        "both clips alike but for rounding, as a reader of single frames must; "
        "ties count as wrong.\n\n" + "\n".join(rows)
    )


def _goals(arms: Sequence[Run]) -> str:
    ours = [run for run in arms if run.recipe.arm == "videomamba"]
    if not ours:
        return "VideoMamba has not been trained yet."
    best = max(ours, key=lambda run: run.measured["t2v_r1"])
    recall, pairs = best.measured["t2v_r1"], best.measured["pairs"]
    told = [
        f"{name} {value:.1f} %: the goal of {goal:.0f} % is {'' if value >= goal else 'not '}met"
        for name, value, goal in (("R@1", recall, GOAL_RECALL), ("pairs", pairs, GOAL_PAIRS))
    ]
    course = "; ".join(
        f"step {step}: {found['t2v_r1']:.1f} and {found['pairs']:.1f}"
        for step, found in best.course[:: max(1, len(best.course) // 6)]
    )
    return f"VideoMamba: {', '.join(told)}. On the way (R@1 and pairs): {course}."


def _commands(arms: Sequence[Run]) -> str:
    lines = [
        f"- `{run.facts['command']}` at {run.facts['commit']} on {run.facts['device']}"
        for run in arms
    ]
    return "\n".join(lines)


def _ablations_intro(runs: Sequence[Run]) -> str:
    recipe = next((run.recipe for run in runs if BASE in run.name), runs[0].recipe)
    facts = runs[0].facts
    return (
        f"### Ablations\n\nA reduced encoder, {recipe.steps} steps of {recipe.batch} clips, the "
        f"first {recipe.masked_steps} with half of the tokens hidden; mean ± standard deviation "
        f"over seeds, percent. `{facts['command']}` at {facts['commit']} on {facts['device']}."
    )


def _theme(title: str, names: dict[str, str], runs: Sequence[Run]) -> str:
    found = {variant: _of(variant, runs) for variant in names}
    found = {variant: own for variant, own in found.items() if own}
    if len(found) < 2:
        return f"#### {title}\n\nNot measured."
    rows = ["| | T2V R@1 | T2V R@10 | pairs | seeds |", "|---|---|---|---|---|"]
    order = sorted(found, key=lambda variant: -_mean(found[variant], "t2v_r1"))
    for variant in order:
        own = found[variant]
        cells = [_spread(own, metric) for metric in ("t2v_r1", "t2v_r10", "pairs")]
        rows.append(f"| {names[variant]} | {' | '.join(cells)} | {len(own)} |")
    told = _against_paper(title, names, found, order)
    return f"#### {title}\n\n" + "\n".join(rows) + (f"\n\n{told}" if told else "")


def _against_paper(
    title: str, names: dict[str, str], found: dict[str, list[Run]], order: list[str]
) -> str:
    paper = PAPER_BEST.get(title)
    if paper is None or paper not in found:
        return ""
    best = order[0]
    if best == paper:
        second = order[1]
        gap, doubt = _gap(found[best], found[second])
        end = "within" if gap <= doubt else "beyond"
        return (
            f"As in the paper, {names[paper]} is first; its lead over {names[second]} "
            f"({gap:.1f} points) is {end} the spread of the difference ({doubt:.1f})."
        )
    gap, doubt = _gap(found[best], found[paper])
    end = "within" if gap <= doubt else "beyond"
    return (
        f"**Unlike in the paper**, {names[best]} is first, {gap:.1f} points above {names[paper]}, "
        f"{end} the spread of the difference ({doubt:.1f})."
    )


def _gap(first: Sequence[Run], second: Sequence[Run]) -> tuple[float, float]:
    """Difference of R@1, and twice its standard error."""
    variance = sum(_deviation(runs, "t2v_r1") ** 2 / len(runs) for runs in (first, second))
    return _mean(first, "t2v_r1") - _mean(second, "t2v_r1"), 2 * variance**0.5


def _of(variant: str, runs: Sequence[Run]) -> list[Run]:
    return [run for run in runs if run.name.startswith(f"ablation-{variant}-seed")]


def _mean(runs: Sequence[Run], metric: str) -> float:
    return fmean(run.measured[metric] for run in runs)


def _deviation(runs: Sequence[Run], metric: str) -> float:
    return stdev(run.measured[metric] for run in runs) if len(runs) > 1 else 0.0


def _spread(runs: Sequence[Run], metric: str) -> str:
    if len(runs) < 2:
        return f"{_mean(runs, metric):.1f}"
    return f"{_mean(runs, metric):.1f} ± {_deviation(runs, metric):.1f}"


def _number(found: dict[str, float], name: str) -> str:
    return f"{found[name]:.1f}" if name in found else "-"


if __name__ == "__main__":
    main()
