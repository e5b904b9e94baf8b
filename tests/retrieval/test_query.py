import numpy as np
import pytest

from reelscan.retrieval.query import Part, Query, as_query, parse_part
from reelscan.retrieval.query_vectors import combine, spread_of


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "film.mp4", "odd^2", "no suffix"):
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("a dog", {"text": "a dog"}),
        ("a dog^2", {"text": "a dog", "weight": 2.0}),
        ("a dog ^0.5", {"text": "a dog ", "weight": 0.5}),
        ("what is in film.mp4", {"text": "what is in film.mp4"}),
        ("rated #t=12", {"text": "rated #t=12"}),
        ("photo.jpg", {"file": "photo.jpg"}),
        ("photo.jpg^3", {"file": "photo.jpg", "weight": 3.0}),
        ("no suffix", {"file": "no suffix"}),
        ("film.mp4#t=12,20.5", {"file": "film.mp4", "start_seconds": 12.0, "end_seconds": 20.5}),
        ("film.mp4#t=12^2", {"file": "film.mp4", "start_seconds": 12.0, "weight": 2.0}),
        ("film.mp4#t=,4", {"file": "film.mp4", "start_seconds": 0.0, "end_seconds": 4.0}),
    ],
)
def test_what_a_person_types(here, words, part):
    found = parse_part(words)
    for name, value in part.items():
        assert (str(found.file) if name == "file" else getattr(found, name)) == value
    assert parse_part(words, wanted=False).weight == -found.weight


@pytest.mark.parametrize(
    ("words", "error", "complaint"),
    [
        ("nowhere.jpg", FileNotFoundError, r"no file nowhere\.jpg"),
        ("nowhere.mp4#t=1,2", FileNotFoundError, r"no file nowhere\.mp4"),
        ("a dog^twice", ValueError, "'twice'"),
        ("a dog^-1", ValueError, "--not"),
        ("a dog^0", ValueError, "weight"),
        ("film.mp4#t=9,4", ValueError, "start < end"),
        ("film.mp4#t=x", ValueError, "'x'"),
        ("", ValueError, "empty"),
        ("  ", ValueError, "empty"),
    ],
)
def test_what_cannot_be_meant_is_refused(here, words, error, complaint):
    with pytest.raises(error, match=complaint):
        parse_part(words)


def test_a_query_needs_something_wanted():
    with pytest.raises(ValueError, match="only what is not wanted"):
        Query(parts=(Part(text="rain", weight=-1.0),))
    with pytest.raises(ValueError, match="give one of them"):
        Part(text="a", file="b.jpg")
    assert as_query("a dog").parts == (Part(text="a dog"),)


def test_each_part_counts_by_its_weight_whatever_its_spread():
    draws = np.random.default_rng(0)
    # What the second part looks at varies a hundred times as much as what the first does.
    sample = draws.normal(size=(500, 4)).astype(np.float32) * [0.01, 1, 1, 1] + [0, 5, 0, 0]
    parts = np.eye(4, dtype=np.float32)[:3]
    query = Query(parts=(Part(text="a", weight=2.0), Part(text="b"), Part(text="c", weight=-1.0)))
    vectors = combine(parts, query, spread_of(sample.astype(np.float32)))
    scores = sample @ vectors.vector + vectors.offset
    standard = (sample - sample.mean(axis=0)) / sample.std(axis=0)
    liked = 2 * standard[:, 0] + standard[:, 1]
    # What is unwanted counts by what is left of it once the wanted parts explain what they can.
    unliked = standard[:, 2] - max(0, (standard[:, 2] @ liked) / (liked @ liked)) * liked
    np.testing.assert_allclose(scores, (liked - unliked) / 4, atol=1e-4)
    assert vectors.usual == 0.0


def test_what_is_unwanted_does_not_cancel_what_is_looked_for():
    sample = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    parts = np.array([[1, 0, 0, 0], [0.9, 0.43589, 0, 0]], np.float32)
    query = Query(parts=(Part(text="a red car"), Part(text="a red car at night", weight=-1.0)))
    vectors = combine(parts, query, spread_of(sample))
    scores = sample @ vectors.vector
    assert np.corrcoef(scores, sample[:, 0])[0, 1] > 0.6
    assert np.corrcoef(scores, sample[:, 1])[0, 1] < -0.3


def test_one_part_keeps_its_similarity():
    sample = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    vectors = combine(np.eye(4, dtype=np.float32)[:1], as_query("a"), spread_of(sample))
    np.testing.assert_array_equal(vectors.vector, np.eye(4)[0])
    assert (vectors.offset, vectors.usual) == (0.0, pytest.approx(sample[:, 0].mean()))


@pytest.mark.parametrize("segments", [0, 1])
def test_few_segments_are_no_obstacle(segments):
    parts = np.eye(4, dtype=np.float32)[:2]
    query = Query(parts=(Part(text="a"), Part(text="b")))
    vectors = combine(parts, query, spread_of(np.ones((segments, 4), np.float32)))
    assert np.isfinite(vectors.vector).all()
