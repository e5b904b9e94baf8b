"""From a score to a probability, fitted and measured on texts and videos that were held out.

The probability is that of a moment that fits against one that does not, where both are as common:
of as many fitting as unfitting moments with a probability of 0.9, 9 in 10 fit. It does not depend
on how large a collection is; `CalibrationRow` tells what a limit keeps and what it lets through.
Q texts, V videos, N pairs.
"""

import json
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reelscan.models.atomic_file import write_atomically
from reelscan.models.plain_config import from_plain
from reelscan.retrieval.evaluation_report import EvaluationReport, EvaluationScores
from reelscan.retrieval.rerank import NO_CANDIDATE_SCORE

CALIBRATION_NAME = "calibration.json"
_FEWEST_TEXTS = 50
_LIMITS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """Probability = 1 / (1 + exp(-(slope * score + intercept)))."""

    slope: float
    intercept: float

    def probability(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Elementwise."""
        log_odds = np.clip(self.slope * scores + self.intercept, -500, 500)
        return np.asarray(1 / (1 + np.exp(-log_odds)))


@dataclass(frozen=True, kw_only=True)
class CalibrationRow:
    """What a limit does, measured on the half that was not fitted."""

    limit: float
    """`min_score`"""
    fitting_kept: float
    """Share of the fitting pairs that reach it."""
    unfitting_kept: float
    """Share of the others that reach it."""


@dataclass(frozen=True, kw_only=True)
class CurveReport:
    """A curve and how it does on pairs that it has not seen."""

    curve: ScoreCurve
    fitting: int
    """Fitting pairs it was fitted on."""
    unfitting: int
    expected_error: float
    """Mean distance of the probability to the share that fits, in ten bins, both kinds of pairs
    weighing the same."""
    rows: tuple[CalibrationRow, ...]


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """What a model's scores mean."""

    fingerprint: str
    """Of the encoder."""
    annotations: str
    """What it was fitted on."""
    similarity: CurveReport
    """Of the product of vectors."""
    matching: CurveReport | None
    """Of the matching logit, among reranked candidates."""


def calibrate(report: EvaluationReport, *, annotations: str) -> Calibration:
    """Fit on half of an evaluation's videos, measure on the other half.

    Raises ValueError for fewer than 100 texts, or scores that do not tell the pairs apart.
    """
    scores = report.scores
    halves = _halves(scores)
    matching = None
    if scores.reranked is not None and report.score_rule == "matching":
        logits = scores.reranked.text_to_video
        matching = _fit_and_measure(scores, logits, logits > NO_CANDIDATE_SCORE, halves)
    everywhere = np.ones(scores.similarity.shape, np.bool_)
    return Calibration(
        fingerprint=report.fingerprint,
        annotations=annotations,
        similarity=_fit_and_measure(scores, scores.similarity, everywhere, halves),
        matching=matching,
    )


def save_calibration(folder: Path, calibration: Calibration) -> Path:
    """Write it into a model directory, atomically."""
    path = folder / CALIBRATION_NAME
    write_atomically(path, (json.dumps(asdict(calibration), indent=2) + "\n").encode())
    return path


def load_calibration(folder: Path, *, fingerprint: str) -> Calibration | None:
    """A model directory's calibration; None if there is none.

    Raises ValueError for a damaged one, or one of other weights.
    """
    path = folder / CALIBRATION_NAME
    if not path.is_file():
        return None
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        calibration = _from_plain(values, where=str(path))
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): remove it, or run `reelscan evaluate --calibrate` again"
        ) from error
    if calibration.fingerprint != fingerprint:
        raise ValueError(
            f"{path} belongs to other weights ({calibration.fingerprint}): remove it, or run "
            "`reelscan evaluate --calibrate` again"
        )
    return calibration


def fit_curve(scores: NDArray[np.float64], fits: NDArray[np.bool_]) -> ScoreCurve:
    """The likeliest curve for pairs [N], fitting and unfitting ones weighing the same (Platt).

    Raises ValueError unless both kinds are there and higher scores fit better.
    """
    if not fits.any() or fits.all():
        raise ValueError("a curve needs fitting and unfitting pairs; give more videos and captions")
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    inputs = np.stack([(scores - centre) / spread, np.ones(len(scores))], axis=1)
    weights = np.where(fits, 0.5 / fits.sum(), 0.5 / (~fits).sum())
    found = np.zeros(2)
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-np.clip(inputs @ found, -500, 500)))
        # The pull to 0 keeps the curve finite where the two kinds do not overlap at all.
        gradient = inputs.T @ (weights * (chance - fits)) + 1e-4 * found * [1, 0]
        curvature = (inputs * (weights * chance * (1 - chance))[:, None]).T @ inputs
        step = np.linalg.solve(curvature + np.diag([1e-4, 1e-9]), gradient)
        found -= step
        if np.abs(step).max() < 1e-9:
            break
    if found[0] <= 0:
        raise ValueError(
            "texts score no higher with their own videos than with others, so scores mean "
            "nothing: check the model and the annotations"
        )
    return ScoreCurve(
        slope=float(found[0] / spread), intercept=float(found[1] - found[0] * centre / spread)
    )


def _halves(scores: EvaluationScores) -> NDArray[np.bool_]:
    """For each video whether it is in the half that is fitted; by name, so that it stays so."""
    if len(scores.texts) < 2 * _FEWEST_TEXTS:
        raise ValueError(
            f"{len(scores.texts)} texts are too few to calibrate on; give at least "
            f"{2 * _FEWEST_TEXTS}, with their videos"
        )
    order = sorted(scores.videos, key=lambda video: zlib.crc32(video.encode()))
    fitted = set(order[: len(order) // 2])
    return np.array([video in fitted for video in scores.videos])


def _fit_and_measure(
    scores: EvaluationScores,
    values: NDArray[np.float32],
    counts: NDArray[np.bool_],
    halves: NDArray[np.bool_],
) -> CurveReport:
    """values [Q, V] are scores, counts [Q, V] which of them count."""
    videos_of_text: dict[str, set[int]] = {}
    for text, video in zip(scores.texts, scores.text_video, strict=True):
        videos_of_text.setdefault(text, set()).add(video)
    fits = np.zeros(values.shape, np.bool_)
    for row, text in enumerate(scores.texts):
        fits[row, list(videos_of_text[text])] = True
    half_of_text = halves[list(scores.text_video)]
    pairs = [
        counts & (half_of_text[:, None] == half) & (halves[None] == half) for half in (True, False)
    ]
    curve = fit_curve(values[pairs[0]].astype(np.float64), fits[pairs[0]])
    chance = curve.probability(values[pairs[1]].astype(np.float64))
    unseen = fits[pairs[1]]
    return CurveReport(
        curve=curve,
        fitting=int(fits[pairs[0]].sum()),
        unfitting=int((~fits[pairs[0]]).sum()),
        expected_error=_expected_error(chance, unseen),
        rows=tuple(
            CalibrationRow(
                limit=limit,
                fitting_kept=float((chance[unseen] >= limit).mean()),
                unfitting_kept=float((chance[~unseen] >= limit).mean()),
            )
            for limit in _LIMITS
        ),
    )


def _expected_error(chance: NDArray[np.float64], fits: NDArray[np.bool_]) -> float:
    weights = np.where(fits, 0.5 / max(1, fits.sum()), 0.5 / max(1, (~fits).sum()))
    bins = np.minimum((chance * 10).astype(int), 9)
    error = 0.0
    for one in range(10):
        inside = bins == one
        error += abs(float((weights * (chance - fits))[inside].sum()))
    return error


def _from_plain(values: dict[str, object], *, where: str) -> Calibration:
    def curve(name: str) -> CurveReport | None:
        found = values[name]
        if found is None:
            return None
        if not isinstance(found, dict):
            raise ValueError(f"{name} is {found!r:.80}")
        rows = tuple(
            from_plain(CalibrationRow, row, where=f"{where} {name}.rows") for row in found["rows"]
        )
        rest = {key: found[key] for key in ("fitting", "unfitting", "expected_error")}
        shape = from_plain(ScoreCurve, found["curve"], where=f"{where} {name}.curve")
        return CurveReport(curve=shape, rows=rows, **rest)

    similarity = curve("similarity")
    if similarity is None:
        raise ValueError("similarity is absent")
    return Calibration(
        fingerprint=str(values["fingerprint"]),
        annotations=str(values["annotations"]),
        similarity=similarity,
        matching=curve("matching"),
    )
