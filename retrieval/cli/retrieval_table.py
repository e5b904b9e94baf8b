"""Retrieval results as a table, as markdown and as json."""

from collections.abc import Mapping, Sequence

from reelscan.retrieval.benchmark import Benchmark, PublishedResult
from reelscan.retrieval.bootstrap import Interval
from reelscan.retrieval.evaluation_report import (
    BothDirections,
    EvaluationReport,
    RankedDirection,
    RankingName,
)
from reelscan.retrieval.metrics import RetrievalMetrics
from reelscan.retrieval.order_pairs import OrderReport, VideoPair, order_accuracy

WHOLE_SET_MARK = "*"
WHOLE_SET_NOTE = (
    f"{WHOLE_SET_MARK} uses the whole query set at once, which no search has; not comparable "
    "with the other rows"
)
_NAME_WIDTH = 44
_RERANKED_NOTE = (
    "Reranked by the matching head among the best candidates by embedding. Under the published "
    "rule what is no candidate scores alike, so a query whose target is none of them ranks last; "
    "that shows in the median and mean rank."
)


def order_of_pairs(report: EvaluationReport, pairs: Sequence[VideoPair]) -> OrderReport:
    """Accuracy on `pairs` by embedding similarity."""
    scores = report.scores
    return order_accuracy(
        pairs, scores.similarity, videos=scores.videos, caption_video=scores.text_video
    )


def summary(report: EvaluationReport, order: OrderReport | None) -> dict[str, object]:
    """The report without its score matrices."""
    dual_softmax = report.ranking("dual softmax")
    return {
        "videos": len(report.scores.videos),
        "texts": len(report.scores.texts),
        "embedding": report.embedding,
        "reranked": report.reranked,
        "rerank_top": report.rerank_top,
        "score_rule": report.score_rule if report.reranked is not None else None,
        "dual_softmax_with_whole_query_set": dual_softmax.metrics if dual_softmax else None,
        "intervals_95_percent": {
            one.name: {
                "text_to_video": one.text_to_video.intervals,
                "video_to_text": one.video_to_text.intervals,
            }
            for one in report.rankings
        },
        "chance": report.chance,
        "order": order,
        "encoder_fingerprint": report.fingerprint,
        "left_out": report.left_out,
        "notices": report.notices,
        "seconds": report.seconds,
    }


def table(
    report: EvaluationReport,
    order: OrderReport | None,
    *,
    published: Sequence[PublishedResult] = (),
) -> str:
    """Recall in percent, both directions, beside what is published and chance; then the pairs."""
    videos, texts = len(report.scores.videos), len(report.scores.texts)
    lines = [f"{videos:,} videos, {texts:,} captions, {report.seconds:.1f} s"]
    lines.append(
        f"{'':<{_NAME_WIDTH}}{'R@1':>7}{'R@5':>7}{'R@10':>7}{'median':>8}{'mean':>8}"
        "   R@1 with 95 % confidence"
    )
    for direction, words in (
        ("text_to_video", "text to video"),
        ("video_to_text", "video to text"),
    ):
        for ranking in report.rankings:
            ranked: RankedDirection = getattr(ranking, direction)
            low, high = ranked.intervals.recall_at_1
            name = f"{words}, {title_of(ranking.name, report)}"
            lines.append(f"{row(name, ranked.metrics)}   {low:.1f} to {high:.1f}")
        lines += [
            published_row(f"{words}, {result.model}, published", getattr(result, direction))
            for result in published
        ]
        lines.append(row(f"{words}, chance", getattr(report.chance, direction)))
    lines.append(WHOLE_SET_NOTE)
    if order is not None:
        lines += order_lines(order)
    if report.left_out:
        lines.append(f"left out: {len(report.left_out)} videos that are missing or broken")
    lines += [f"note: {notice}" for notice in report.notices]
    return "\n".join(lines)


def title_of(name: RankingName, report: EvaluationReport) -> str:
    """A ranking as a row names it."""
    if name == "reranked":
        rule = "" if report.score_rule == "matching" else f", {report.score_rule}"
        return f"reranked (top {report.rerank_top}{rule})"
    return f"{name} {WHOLE_SET_MARK}" if name == "dual softmax" else name


def row(name: str, metrics: RetrievalMetrics) -> str:
    """One line of recalls and ranks."""
    recalls = (metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10)
    return f"{published_row(name, recalls)}{metrics.median_rank:8.1f}{metrics.mean_rank:8.1f}"


def published_row(name: str, recalls: Sequence[float]) -> str:
    """One line of recalls alone."""
    return f"{name:<{_NAME_WIDTH}}" + "".join(f"{recall:7.1f}" for recall in recalls)


def order_lines(order: OrderReport) -> list[str]:
    """How often a caption prefers its video over the one that differs in time alone."""
    kinds = [("all", order.overall), *order.by_kind.items()]
    return ["pairs that only time tells apart (chance 50.0):"] + [
        f"  {kind:<12}{accuracy.percent:5.1f} % of {accuracy.captions} captions"
        for kind, accuracy in kinds
    ]


def comparison(reports: Mapping[str, EvaluationReport]) -> str:
    """Encoders side by side, a line each and ranking."""
    width = max(20, *(len(name) + 2 for name in reports)) + 26
    head = f"{'R@1':>7}{'R@5':>7}{'R@10':>7}"
    lines = [f"{'':<{width}}{'text to video':^21}   {'video to text':^21}"]
    lines.append(f"{'':<{width}}{head}   {head}")
    for name, report in reports.items():
        for ranking in report.rankings:
            both = "   ".join(_recalls(one) for one in _directions(ranking.metrics))
            lines.append(f"{f'{name}, {title_of(ranking.name, report)}':<{width}}{both}")
    chance = next(iter(reports.values())).chance
    lines.append(f"{'chance':<{width}}{'   '.join(_recalls(one) for one in _directions(chance))}")
    return "\n".join([*lines, WHOLE_SET_NOTE])


def markdown(
    benchmark: Benchmark, reports: Mapping[str, EvaluationReport], *, pictures: Sequence[str] = ()
) -> str:
    """The whole result as a page; `pictures` are file names beside it."""
    first = next(iter(reports.values()))
    title = f"{benchmark.title} {benchmark.split}".strip()
    lines = [
        f"# {title}",
        "",
        f"{len(first.scores.videos):,} videos, {len(first.scores.texts):,} texts. Recalls in "
        "percent, in brackets from where to where they lie with 95 % confidence (bootstrap over "
        "videos). Ties count against the model.",
    ]
    for direction, words in (
        ("text_to_video", "Text to video"),
        ("video_to_text", "Video to text"),
    ):
        lines += ["", f"## {words}", "", "| | R@1 | R@5 | R@10 | median rank | mean rank |"]
        lines.append("|---|---|---|---|---|---|")
        for name, report in reports.items():
            for ranking in report.rankings:
                label = f"{name}, {title_of(ranking.name, report)}".replace("*", "\\*")
                lines.append(_markdown_row(label, getattr(ranking, direction)))
        for result in benchmark.published:
            recalls = " | ".join(f"{recall:.1f}" for recall in getattr(result, direction))
            lines.append(f"| {result.model}, published, reranked | {recalls} | | |")
        chance: RetrievalMetrics = getattr(first.chance, direction)
        lines.append(
            f"| chance | {chance.recall_at_1:.1f} | {chance.recall_at_5:.1f} | "
            f"{chance.recall_at_10:.1f} | {chance.median_rank:.1f} | {chance.mean_rank:.1f} |"
        )
    lines += ["", WHOLE_SET_NOTE.replace("*", "\\*", 1) + "."]
    if first.reranked is not None:
        lines.append("")
        lines.append(_RERANKED_NOTE)
    notices = list(dict.fromkeys(note for one in reports.values() for note in one.notices))
    if first.left_out:
        notices.append(f"{len(first.left_out)} videos that are missing or broken were left out")
    if notices:
        lines += ["", "## Notes", "", *(f"- {notice}" for notice in notices)]
    for picture in pictures:
        lines += ["", f"![]({picture})"]
    return "\n".join(lines) + "\n"


def _markdown_row(name: str, ranked: RankedDirection) -> str:
    metrics, intervals = ranked.metrics, ranked.intervals
    cells = [
        _with_interval(metrics.recall_at_1, intervals.recall_at_1),
        _with_interval(metrics.recall_at_5, intervals.recall_at_5),
        _with_interval(metrics.recall_at_10, intervals.recall_at_10),
        _with_interval(metrics.median_rank, intervals.median_rank),
        _with_interval(metrics.mean_rank, intervals.mean_rank),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def _with_interval(value: float, interval: Interval) -> str:
    return f"{value:.1f} ({interval[0]:.1f} to {interval[1]:.1f})"


def _directions(both: BothDirections) -> tuple[RetrievalMetrics, RetrievalMetrics]:
    return both.text_to_video, both.video_to_text


def _recalls(metrics: RetrievalMetrics) -> str:
    recalls = (metrics.recall_at_1, metrics.recall_at_5, metrics.recall_at_10)
    return "".join(f"{recall:7.1f}" for recall in recalls)
