"""A picture of recall against k, both directions side by side."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reelscan.models.atomic_file import write_atomically
from reelscan.retrieval.benchmark import Benchmark
from reelscan.retrieval.evaluation_report import EvaluationReport, RankingName

_DEEPEST = 100
_STYLES: dict[RankingName, str] = {"embedding": "-", "reranked": "--", "dual softmax": ":"}
_COLOURS = ("#1f5f8b", "#c8553d", "#3d7d4a", "#8a5a9e", "#b08a2e", "#4a4a4a")
_MARKERS = "osv^"


def write_recall_plot(
    path: str | os.PathLike[str],
    reports: Mapping[str, EvaluationReport],
    *,
    benchmark: Benchmark,
) -> None:
    """Write a PNG: a line a ranking of each encoder, what is published, and chance. Atomic."""
    if not reports:
        raise ValueError("there is no evaluation to plot; give at least one")
    figure = Figure(figsize=(11, 5.6), dpi=110, facecolor="white", layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    first = next(iter(reports.values()))
    for axes, direction, title in (
        (left, "text_to_video", "text to video"),
        (right, "video_to_text", "video to text"),
    ):
        deepest = min(_DEEPEST, getattr(first.chance, direction).candidates)
        for colour, (name, report) in zip(_cycled(len(reports)), reports.items(), strict=True):
            for ranking in report.rankings:
                curve = recall_curve(getattr(ranking, direction).ranks, deepest=deepest)
                label = f"{name}, {ranking.name}" if len(reports) > 1 else ranking.name
                style = _STYLES[ranking.name]
                axes.plot(np.arange(1, deepest + 1), curve, style, color=colour, label=label)
        _add_published(axes, benchmark, direction)
        _add_chance(axes, first, direction, deepest)
        axes.set_title(title)
        axes.set_xscale("log")
        ticks = [k for k in (1, 2, 5, 10, 20, 50, 100) if k <= deepest]
        axes.set_xticks(ticks, [str(k) for k in ticks])
        axes.minorticks_off()
        axes.set_xlabel("k")
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
    left.set_ylabel("recall at k, percent")
    lines, labels = right.get_legend_handles_labels()
    figure.legend(lines, labels, fontsize=8, loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"{benchmark.title} {benchmark.split}".strip())
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    write_atomically(Path(path), picture.getvalue())


def recall_curve(ranks: NDArray[np.int64], *, deepest: int) -> NDArray[np.float64]:
    """Percent of queries found among the first 1, 2, ... `deepest`."""
    counts = np.bincount(np.minimum(ranks, deepest + 1), minlength=deepest + 2)
    curve: NDArray[np.float64] = 100 * np.cumsum(counts[1 : deepest + 1]) / len(ranks)
    return curve


def _add_published(axes: Axes, benchmark: Benchmark, direction: str) -> None:
    for number, result in enumerate(benchmark.published):
        marker = _MARKERS[number % len(_MARKERS)]
        recalls = getattr(result, direction)
        label = f"published {result.model}, reranked"
        axes.plot((1, 5, 10), recalls, marker, color="#777777", markersize=5, label=label)


def _add_chance(axes: Axes, report: EvaluationReport, direction: str, deepest: int) -> None:
    chance = getattr(report.chance, direction)
    depths = [k for k in (1, 5, 10) if k <= deepest]
    recalls = [getattr(chance, f"recall_at_{k}") for k in depths]
    axes.plot(depths, recalls, "-", color="#bbbbbb", linewidth=1, label="chance")


def _cycled(count: int) -> list[str]:
    return [_COLOURS[number % len(_COLOURS)] for number in range(count)]
