"""What a calibration says, for a person."""

from pathlib import Path

from reelscan.retrieval.calibration import Calibration, CurveReport


def calibration_text(calibration: Calibration, path: Path) -> str:
    """Where it was written, and what each limit keeps and lets through."""
    lines = [f"calibrated; written to {path}", *_lines("similarity", calibration.similarity)]
    if calibration.matching is not None:
        lines += _lines("after reranking, among candidates", calibration.matching)
    return "\n".join(lines)


def _lines(name: str, report: CurveReport) -> list[str]:
    lines = [
        f"{name}: fitted on {report.fitting} fitting pairs, measured on the other half; "
        f"mean error of the probability {100 * report.expected_error:.1f} points",
        "  --min-score   of what fits it keeps   of the rest it lets through",
    ]
    lines += [
        f"  {row.limit:<14g}{100 * row.fitting_kept:9.1f} %{100 * row.unfitting_kept:20.2f} %"
        for row in report.rows
    ]
    return lines
