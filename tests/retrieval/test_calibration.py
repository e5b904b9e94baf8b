from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from reelscan.retrieval.calibration import (
    calibrate,
    fit_curve,
    load_calibration,
    save_calibration,
)
from reelscan.retrieval.evaluation_report import EvaluationScores
from reelscan.retrieval.rerank import NO_CANDIDATE_SCORE, RerankedScores


def report(*, videos=120, apart=2.0, reranked=False, doubled=False):
    """Scores of the others are normal around 0, those of a text and its video around `apart`."""
    draws = np.random.default_rng(0)
    similarity = draws.normal(size=(videos, videos)).astype(np.float32)
    similarity[np.arange(videos), np.arange(videos)] += apart
    texts = tuple(f"text {row // 2 if doubled else row}" for row in range(videos))
    if doubled:
        twins = np.arange(videos) ^ 1
        similarity[np.arange(videos), twins] += apart
    scores = None
    if reranked:
        logits = np.where(similarity > 0.5, 3 * similarity, NO_CANDIDATE_SCORE)
        scores = RerankedScores(text_to_video=logits, video_to_text=logits.T)
    return SimpleNamespace(
        fingerprint="colours-1",
        score_rule="matching",
        scores=EvaluationScores(
            videos=tuple(f"{row}.mp4" for row in range(videos)),
            paths=tuple(Path(f"{row}.mp4") for row in range(videos)),
            seen_seconds=(1.0,) * videos,
            texts=texts,
            text_video=tuple(range(videos)),
            similarity=similarity,
            reranked=scores,
        ),
    )


def test_the_curve_is_the_true_one_of_two_normal_distributions():
    draws = np.random.default_rng(1)
    fitting, others = draws.normal(1.5, 1, 20_000), draws.normal(0, 1, 100_000)
    curve = fit_curve(np.concatenate([fitting, others]), np.arange(120_000) < 20_000)
    # Log odds of N(1.5, 1) against N(0, 1), as common: 1.5 x - 1.125.
    assert curve.slope == pytest.approx(1.5, abs=0.03)
    assert curve.intercept == pytest.approx(-1.125, abs=0.03)
    assert curve.probability(np.array([0.75])) == pytest.approx(0.5, abs=0.02)


def test_scores_far_apart_keep_a_finite_curve():
    curve = fit_curve(np.array([5.0, 5.1, 0.0, 0.1]), np.array([True, True, False, False]))
    assert np.isfinite([curve.slope, curve.intercept]).all()
    assert curve.probability(np.array([5.0, 0.0])) == pytest.approx([1.0, 0.0], abs=0.05)


def test_what_a_limit_does_is_measured_on_the_other_half():
    found = calibrate(report(), annotations="test.json").similarity
    assert found.fitting == 60 and found.unfitting == 60 * 59
    assert found.expected_error < 0.1
    rows = {row.limit: row for row in found.rows}
    # The halfway point lies at score 1, which a normal variable passes with 16 %.
    assert rows[0.5].fitting_kept == pytest.approx(0.84, abs=0.1)
    assert rows[0.5].unfitting_kept == pytest.approx(0.16, abs=0.03)
    kept = [row.unfitting_kept for row in found.rows]
    assert kept == sorted(kept, reverse=True) and kept[-1] < 0.01


def test_videos_with_the_same_caption_fit_it_as_well():
    found = calibrate(report(doubled=True), annotations="test.json").similarity
    assert found.fitting > 60
    assert found.curve.slope == pytest.approx(2.0, abs=0.6)


def test_matching_logits_have_a_curve_of_their_own():
    found = calibrate(report(reranked=True), annotations="test.json")
    assert found.matching is not None
    assert found.matching.curve.slope < found.similarity.curve.slope
    assert found.matching.unfitting < found.similarity.unfitting


def test_it_is_kept_beside_the_model(tmp_path):
    assert load_calibration(tmp_path, fingerprint="colours-1") is None
    made = calibrate(report(reranked=True), annotations="test.json")
    path = save_calibration(tmp_path, made)
    assert load_calibration(tmp_path, fingerprint="colours-1") == made
    with pytest.raises(ValueError, match="other weights"):
        load_calibration(tmp_path, fingerprint="colours-2")
    save_calibration(tmp_path, replace(made, matching=None))
    assert load_calibration(tmp_path, fingerprint="colours-1").matching is None
    path.write_text(path.read_text()[:100])
    with pytest.raises(ValueError, match="damaged"):
        load_calibration(tmp_path, fingerprint="colours-1")


def test_scores_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="too few"):
        calibrate(report(videos=40), annotations="test.json")
    with pytest.raises(ValueError, match="mean nothing"):
        calibrate(report(apart=-2.0), annotations="test.json")
