import numpy as np
import pytest

from reelscan.index.collection import Collection
from reelscan.index.duplicates import find_duplicates, set_duplicates_aside
from reelscan.index.manifest import Manifest, Windowing
from reelscan.index.segments import NewSegment
from reelscan.index.video_files import VideoFile

WIDTH = 32
MANIFEST = Manifest(
    fingerprint="model-a", embed_dim=WIDTH, videos_root="/videos", windowing=Windowing()
)


def scene(number, *, noise=0.0):
    """A vector of its own for each number, of any length, and a little changed."""
    draws = np.random.default_rng(number)
    vector = draws.normal(size=WIDTH) * draws.uniform(0.6, 1.0)
    return (vector + noise * np.random.default_rng(999).normal(size=WIDTH)).astype(np.float32)


def add(collection, name, vectors, *, size=1000):
    segments = [
        NewSegment(start_seconds=8.0 * place, end_seconds=8.0 * place + 8, vector=vector)
        for place, vector in enumerate(vectors)
    ]
    collection.add_video(VideoFile(path=name, size_bytes=size, mtime_ns=1), segments)


@pytest.fixture
def collection(tmp_path):
    with Collection.create(tmp_path / "c", manifest=MANIFEST) as collection:
        film = list(range(10))
        add(collection, "film.mp4", [scene(one) for one in film])
        add(collection, "film-small.mp4", [scene(one, noise=0.05) for one in film], size=100)
        add(collection, "excerpt.mp4", [scene(one) for one in film[3:7]])
        add(collection, "half.mp4", [scene(one) for one in (0, 1, 50, 51)])
        add(collection, "other.mp4", [scene(one) for one in range(60, 70)])
        yield collection


def test_copies_and_excerpts_are_found_and_nothing_else(collection):
    told = []
    found = find_duplicates(collection, on_progress=told.append)
    assert [(one.video, one.kept, one.share) for one in found] == [
        ("film-small.mp4", "film.mp4", pytest.approx(1.0)),
        ("excerpt.mp4", "film.mp4", pytest.approx(1.0)),
    ]
    assert told == [38]
    halves = find_duplicates(collection, share=0.5)
    assert [one.video for one in halves] == ["film-small.mp4", "excerpt.mp4", "half.mp4"]
    assert halves[-1].share == pytest.approx(0.5)
    assert [one.video for one in find_duplicates(collection, similarity=0.9999)] == ["excerpt.mp4"]


def test_what_is_set_aside_stays_so_with_its_reason(collection):
    set_duplicates_aside(collection, find_duplicates(collection))
    assert sorted(collection.videos()) == ["film.mp4", "half.mp4", "other.mp4"]
    assert collection.quarantined()["excerpt.mp4"].reason == "looks the same as film.mp4 (100 %)"
    assert find_duplicates(collection) == []


def test_impossible_limits_are_refused(collection):
    with pytest.raises(ValueError, match="similarity is 2"):
        find_duplicates(collection, similarity=2.0)
    with pytest.raises(ValueError, match="share is 0"):
        find_duplicates(collection, share=0.0)
