"""`reelscan evaluate`: zero-shot text-video retrieval on an annotation file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from reelscan.models.model_directory import load_model
from reelscan.retrieval.cli.arguments import as_json, parse_arguments
from reelscan.retrieval.cli.device import best_device
from reelscan.retrieval.cli.progress import StageProgress
from reelscan.retrieval.cli.retrieval_table import order_of_pairs, summary, table
from reelscan.retrieval.evaluate import evaluate
from reelscan.retrieval.evaluation_report import EvaluationProgress
from reelscan.retrieval.order_pairs import read_pairs


@dataclass(frozen=True, kw_only=True)
class Command:
    """Measures zero-shot text-video retrieval, both directions, beside chance.

    The annotation file is a json list: [{"video": "a.mp4", "caption": "..." or ["...", ...]}].

    Examples:
      reelscan evaluate test.json --videos msrvtt/videos --model my-model
      reelscan evaluate test.json --videos msrvtt/videos --model my-model --rerank-top 128
      reelscan evaluate didemo.json --videos didemo --model m --join-captions --max-seconds 30
    """

    annotations: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="ANNOTATIONS")]
    """Annotation file (json, jsonl, csv or parquet)."""
    model: Path
    """Model directory of the encoder."""
    videos: Path | None = None
    """Folder that the videos' paths are relative to; None: the annotation file's folder."""
    rerank_top: int | None = None
    """Also rank this many candidates a query by the matching head (published: 128)."""
    score_rule: Literal["matching", "matching+similarity"] = "matching"
    """Score after reranking; matching is the published one."""
    join_captions: bool = False
    """One text of all captions of a video (DiDeMo, ActivityNet)."""
    max_seconds: float | None = None
    """Only this many seconds from the start of each video (30 for DiDeMo)."""
    leave_out_broken: bool = False
    """Go on without videos that are missing or broken."""
    pairs: Path | None = None
    """Pairs of videos that differ in order or direction alone: their accuracy is added."""
    batch_size: int = 8
    """Videos embedded at once."""
    workers: int = 2
    """Threads that decode videos."""
    device: str = "auto"
    """auto, cpu or cuda."""
    json: bool = False
    """Print json."""


def main(arguments: list[str]) -> int:
    """Prints the table."""
    command = parse_arguments(Command, "evaluate", arguments)
    encoder = load_model(command.model, device=best_device(command.device))
    pairs = read_pairs(command.pairs) if command.pairs else None
    with StageProgress("evaluating", unit="videos") as bar:

        def show(progress: EvaluationProgress) -> None:
            bar.update(progress.done, progress.total, note=progress.stage)

        report = evaluate(
            encoder,
            command.annotations,
            video_root=command.videos or command.annotations.parent,
            rerank_top=command.rerank_top,
            score_rule=command.score_rule,
            join_captions=command.join_captions,
            max_seconds=command.max_seconds,
            leave_out_broken=command.leave_out_broken,
            batch_size=command.batch_size,
            workers=command.workers,
            on_progress=show,
        )
    order = order_of_pairs(report, pairs) if pairs is not None else None
    print(as_json(summary(report, order)) if command.json else table(report, order))
    return 0
