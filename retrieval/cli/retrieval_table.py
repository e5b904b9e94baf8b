"""Retrieval results as a table and as json."""

from collections.abc import Sequence

from reelscan.retrieval.evaluation_report import BothDirections, EvaluationReport
from reelscan.retrieval.metrics import RetrievalMetrics
from reelscan.retrieval.order_pairs import OrderReport, VideoPair, order_accuracy


def order_of_pairs(report: EvaluationReport, pairs: Sequence[VideoPair]) -> OrderReport:
    """Accuracy on `pairs` by embedding similarity."""
    scores = report.scores
    return order_accuracy(
        pairs, scores.similarity, videos=scores.videos, caption_video=scores.text_video
    )


def summary(report: EvaluationReport, order: OrderReport | None) -> dict[str, object]:
    """The report without its score matrices."""
    return {
        "videos": len(report.scores.videos),
        "texts": len(report.scores.texts),
        "embedding": report.embedding,
        "reranked": report.reranked,
        "chance": report.chance,
        "order": order,
        "left_out": report.left_out,
        "seconds": report.seconds,
    }


def table(report: EvaluationReport, order: OrderReport | None) -> str:
    """Recall in percent, both directions, beside chance; then the pairs."""
    videos, texts = len(report.scores.videos), len(report.scores.texts)
    lines = [f"{videos} videos, {texts} captions, {report.seconds:.1f} s"]
    lines.append(f"{'':<28}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>8}{'mean':>8}")
    rankings: list[tuple[str, BothDirections | None]] = [
        ("embedding", report.embedding),
        ("reranked", report.reranked),
        ("chance", report.chance),
    ]
    measured = [(name, both) for name, both in rankings if both is not None]
    lines += [row(f"text to video, {name}", both.text_to_video) for name, both in measured]
    lines += [row(f"video to text, {name}", both.video_to_text) for name, both in measured]
    if order is not None:
        lines += order_lines(order)
    if report.left_out:
        lines.append(f"left out: {len(report.left_out)} videos that are missing or broken")
    return "\n".join(lines)


def row(name: str, metrics: RetrievalMetrics) -> str:
    recalls = (metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10)
    cells = "".join(f"{recall:7.1f}" for recall in recalls)
    return f"{name:<28}{cells}{metrics.median_rank:8.1f}{metrics.mean_rank:8.1f}"


def order_lines(order: OrderReport) -> list[str]:
    """How often a caption prefers its video over the one that differs in time alone."""
    kinds = [("all", order.overall), *order.by_kind.items()]
    return ["pairs that only time tells apart (chance 50.0):"] + [
        f"  {kind:<12}{accuracy.percent:5.1f} % of {accuracy.captions} captions"
        for kind, accuracy in kinds
    ]
