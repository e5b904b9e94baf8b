"""What `reelscan evaluate` leaves in its folder: report.json, report.md, recall.png, worst.png."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reelscan import __version__
from reelscan.models.atomic_file import write_atomically
from reelscan.retrieval.benchmark import Benchmark
from reelscan.retrieval.cli.arguments import as_json
from reelscan.retrieval.cli.retrieval_table import markdown, summary
from reelscan.retrieval.evaluation_report import EvaluationReport
from reelscan.retrieval.order_pairs import OrderReport
from reelscan.retrieval.recall_plot import write_recall_plot
from reelscan.retrieval.worst_queries import WorstQuery, worst_queries, write_worst_sheet

PLOT = "recall.png"


@dataclass(frozen=True, kw_only=True)
class SavedEvaluation:
    """What was written."""

    files: tuple[str, ...]
    """Names in the folder."""
    worst: dict[str, list[WorstQuery]]
    """Each model's worst queries, if asked for."""


def save_evaluation(
    folder: Path,
    benchmark: Benchmark,
    reports: Mapping[str, EvaluationReport],
    *,
    order: OrderReport | None,
    worst: int | None,
) -> SavedEvaluation:
    """Write everything, each file atomically; `order` is that of the first model."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[WorstQuery]] = {}
    pictures = [PLOT]
    for name, report in reports.items():
        if worst is not None:
            found[name] = worst_queries(report, worst)
            picture = "worst.png" if len(reports) == 1 else f"worst-{_file_name(name)}.png"
            write_worst_sheet(folder / picture, report, found[name])
            pictures.append(picture)
    write_recall_plot(folder / PLOT, reports, benchmark=benchmark)
    content = {
        "reelscan": __version__,
        "benchmark": benchmark,
        "models": {
            name: summary(report, order if number == 0 else None)
            for number, (name, report) in enumerate(reports.items())
        },
        "worst": found,
    }
    write_atomically(folder / "report.json", as_json(content).encode())
    page = markdown(benchmark, reports, pictures=pictures)
    write_atomically(folder / "report.md", page.encode())
    return SavedEvaluation(files=("report.md", "report.json", *pictures), worst=found)


def _file_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-")
