"""`reelscan search` with several parts, groups and limits."""

import json
from pathlib import Path

import pytest


@pytest.fixture
def collection(demo_root: Path) -> Path:
    return demo_root / "test.collection"


@pytest.fixture
def example(demo_root: Path) -> Path:
    return min((demo_root / "corpus" / "test").glob("*.mp4"))


def test_several_parts_with_weights(collection: Path, example: Path, run) -> None:
    words = ("--like", f"{example}#t=0,1^2", "--not", "a blue star^0.5", "--top", 3, "--json")
    outcome = run("search", collection, "a red circle", "--like", "it moves left", *words)
    assert outcome.code == 0, outcome.err
    hits = json.loads(outcome.out)
    assert len(hits) == 3
    assert {"video", "start_seconds", "end_seconds", "score", "path", "best_frame_seconds",
            "probability", "duplicates"} <= set(hits[0])  # fmt: skip
    assert 0 <= hits[0]["best_frame_seconds"] <= hits[0]["end_seconds"]


def test_videos_are_shown_with_their_moments(collection: Path, run) -> None:
    outcome = run("search", collection, "a red circle", "--group", "video", "--top", 2)
    assert outcome.code == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len([line for line in lines if line.endswith(".mp4")]) == 2
    assert len(lines) == 4
    videos = json.loads(run("search", collection, "red", "--group", "video", "--json").out)
    assert videos[0]["score"] == videos[0]["moments"][0]["score"]


def test_a_condition_is_met_by_what_is_shown(collection: Path, example: Path, run) -> None:
    condition = f"video = '{example.name}' and start < 1e6"
    found = json.loads(run("search", collection, "red", "--where", condition, "--json").out)
    assert {hit["video"] for hit in found} == {example.name}
    nothing = run("search", collection, "red", "--where", "start > 1e6")
    assert (nothing.code, nothing.out) == (0, "no moment answers\n")


def test_mistakes_are_one_line(collection: Path, run) -> None:
    for words, complaint in (
        (("--like", "nowhere.jpg"), "no file nowhere.jpg"),
        (("--not", "rain"), "give a sentence, or --like"),
        (("rain", "--min-score", "0.5"), "--calibrate"),
        (("rain", "--min-score", "7"), "from 0 to 1"),
        (("rain", "--where", "start >= '3'"), "start is a number of seconds"),
        (("rain", "--where", "camera = 'north'"), "'camera', which no segment and no video has"),
        (("rain", "--token-cache", "much", "--rerank"), "is no size"),
    ):
        outcome = run("search", collection, *words)
        assert outcome.code == 1
        assert complaint in outcome.err
        assert len(outcome.err.strip().splitlines()) == 1
