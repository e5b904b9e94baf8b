import math
import shutil

import pytest
from colour_encoder import PALETTE, ColourEncoder, ColourMatcher, write_colours
from PIL import Image

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder
from reelscan.index.manifest import FingerprintMismatch, Manifest, Windowing
from reelscan.retrieval.calibration import Calibration, CurveReport, ScoreCurve
from reelscan.retrieval.query import Part, Query
from reelscan.retrieval.searcher import Searcher, SearchOptions
from reelscan.retrieval.token_cache import TokenCache
from reelscan.video.errors import VideoError

PLAIN = SearchOptions(join=False)


def write_picture(path, colour):
    Image.new("RGB", (32, 32), PALETTE[colour]).save(path)
    return path


@pytest.fixture
def videos(tmp_path):
    write_colours(tmp_path / "videos" / "red-blue.mp4", "red blue green green")
    write_colours(tmp_path / "videos" / "blue-red.mp4", "blue red white white")
    return tmp_path / "videos"


@pytest.fixture
def collection(videos):
    path = videos.parent / "my.collection"
    embed_folder(ColourEncoder(), videos, path, window_seconds=2.0)
    with Collection.open(path, read_only=True) as collection:
        yield collection


def moments(hits):
    return [(hit.video, hit.start_seconds) for hit in hits]


def test_a_sentence_finds_the_moment(collection, videos):
    best, *rest = Searcher(collection, ColourEncoder()).search("a white wall")
    assert (best.video, best.start_seconds) == ("blue-red.mp4", 2.0)
    assert best.end_seconds == pytest.approx(4.0, abs=0.2)
    assert best.score == pytest.approx(1.0, abs=1e-3)
    assert best.path == videos / "blue-red.mp4"
    assert len(rest) == 3
    assert len(Searcher(collection, ColourEncoder()).search("white", top=2)) == 2


def test_an_example_video_finds_its_like(collection, tmp_path):
    example = write_colours(tmp_path / "example.mp4", "red blue")
    hits = Searcher(collection, ColourEncoder()).search(example, top=2)
    assert {hit.start_seconds for hit in hits} == {0.0}
    assert hits[0].score == pytest.approx(0.5**0.5, abs=1e-3)


def test_one_moment_per_video_on_demand(collection):
    hits = Searcher(collection, ColourEncoder()).search("red", one_per_video=True)
    assert sorted(moments(hits)) == [("blue-red.mp4", 0.0), ("red-blue.mp4", 0.0)]


@pytest.mark.parametrize("words", ["red blue", "blue red"])
def test_reranking_knows_the_order(collection, words):
    searcher = Searcher(collection, ColourMatcher())
    hits = searcher.search(words, top=2, rerank=True)
    assert moments(hits)[0] == (words.replace(" ", "-") + ".mp4", 0.0)
    assert len(hits) == 2
    assert hits[0].score == pytest.approx(4.0)


def test_reranking_looks_at_more_candidates_than_are_wanted(collection):
    searcher = Searcher(collection, ColourMatcher())
    found = {
        searcher.search(words, top=1, rerank=True)[0].video for words in ("red blue", "blue red")
    }
    assert found == {"red-blue.mp4", "blue-red.mp4"}


@pytest.mark.parametrize("query", ["", "  \n"])
def test_an_empty_query_is_refused(collection, query):
    with pytest.raises(ValueError, match="query is empty"):
        Searcher(collection, ColourEncoder()).search(query)


def test_bad_numbers_are_refused(collection):
    searcher = Searcher(collection, ColourMatcher())
    with pytest.raises(ValueError, match="top is 0"):
        searcher.search("red", top=0)
    with pytest.raises(ValueError, match="top is 0"):
        searcher.search("red", top=0, rerank=True)


def test_another_model_is_refused(collection):
    with pytest.raises(FingerprintMismatch, match=r"colours-1.*other"):
        Searcher(collection, ColourEncoder("other"))


def test_example_videos_that_cannot_be_read_are_refused(collection, tmp_path):
    searcher = Searcher(collection, ColourEncoder())
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        searcher.search(tmp_path / "nowhere.mp4")
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(VideoError):
        searcher.search(tmp_path / "broken.mp4")


def test_reranking_says_what_it_needs(collection, videos):
    with pytest.raises(ValueError, match="no matching head"):
        Searcher(collection, ColourEncoder()).search("red", rerank=True)
    with pytest.raises(ValueError, match="example picture or video"):
        Searcher(collection, ColourMatcher()).search(videos / "red-blue.mp4", rerank=True)
    (videos / "red-blue.mp4").unlink()
    with pytest.raises(VideoError, match=r"red-blue\.mp4.*gone"):
        Searcher(collection, ColourMatcher()).search("red", rerank=True)


def test_an_empty_collection_says_so(tmp_path):
    manifest = Manifest(
        fingerprint="colours-1", embed_dim=8, videos_root="/", windowing=Windowing()
    )
    with (
        Collection.create(tmp_path / "empty", manifest=manifest) as empty,
        pytest.raises(ValueError, match="no segments yet"),
    ):
        Searcher(empty, ColourEncoder()).search("red")


def parts(*described):
    return Query(parts=tuple(described))


def test_several_examples_and_what_is_not_wanted(collection, videos, tmp_path):
    searcher = Searcher(collection, ColourEncoder())
    picture = write_picture(tmp_path / "blue.png", "blue")
    assert searcher.search(picture, top=1)[0].start_seconds == 0.0
    both = searcher.search(parts(Part(text="green"), Part(file=picture)), top=4)
    assert [hit.score for hit in both] == sorted((hit.score for hit in both), reverse=True)
    assert set(moments(both)[:2]) >= {("red-blue.mp4", 2.0)}
    unlike = parts(Part(text="red blue"), Part(text="green", weight=-5.0))
    assert moments(searcher.search(unlike, top=4, options=PLAIN))[-1] == ("red-blue.mp4", 2.0)


def test_a_part_of_a_video_is_an_example(collection, videos):
    example = Part(file=videos / "red-blue.mp4", start_seconds=2.0, end_seconds=4.0)
    best = Searcher(collection, ColourEncoder()).search(example, top=1)[0]
    assert (best.video, best.start_seconds) == ("red-blue.mp4", 2.0)
    assert best.score == pytest.approx(1.0, abs=1e-3)


def test_the_best_frame_is_told(collection):
    best = Searcher(collection, ColourEncoder()).search("red", top=2, options=PLAIN)
    found = {hit.video: hit.best_frame_seconds for hit in best}
    # Two frames a second are looked at, each standing for half of one.
    assert found["red-blue.mp4"] in (0.25, 0.75)
    assert found["blue-red.mp4"] in (1.25, 1.75)


def test_neighbours_are_joined_and_more_are_fetched_for_them(tmp_path):
    write_colours(tmp_path / "videos" / "a.mp4", "red red red blue red green")
    embed_folder(ColourEncoder(), tmp_path / "videos", tmp_path / "c", window_seconds=1.0)
    with Collection.open(tmp_path / "c", read_only=True) as collection:
        searcher = Searcher(collection, ColourEncoder())
        found = searcher.search("red", top=2)
        assert [(hit.start_seconds, hit.end_seconds) for hit in found] == [(0, 3), (4, 5)]
        assert len(searcher.search("red", top=10, options=PLAIN)) == 6


def test_videos_come_with_their_moments(collection):
    videos = Searcher(collection, ColourEncoder()).search_videos("blue", options=PLAIN)
    assert sorted(video.video for video in videos) == ["blue-red.mp4", "red-blue.mp4"]
    assert [len(video.moments) for video in videos] == [2, 2]
    one = Searcher(collection, ColourEncoder()).search_videos("blue", top=1, moments_per_video=1)
    assert [len(video.moments) for video in one] == [1]
    with pytest.raises(ValueError, match="moments_per_video is 0"):
        Searcher(collection, ColourEncoder()).search_videos("blue", moments_per_video=0)


def test_copies_are_folded(videos):
    shutil.copy(videos / "red-blue.mp4", videos / "copy.mp4")
    embed_folder(ColourEncoder(), videos, videos.parent / "c", window_seconds=2.0)
    with Collection.open(videos.parent / "c", read_only=True) as collection:
        searcher = Searcher(collection, ColourEncoder())
        (best, *rest) = searcher.search("green", top=3, options=SearchOptions(fold_duplicates=True))
        assert best.start_seconds == 2.0
        (other,) = best.duplicates
        assert {best.video, other.video} == {"copy.mp4", "red-blue.mp4"}
        assert (other.video, 2.0) not in moments(rest)
        assert len(rest) == 2


def test_a_limit_on_the_probability(collection):
    curve = CurveReport(
        curve=ScoreCurve(slope=10.0, intercept=-5.0),
        fitting=100,
        unfitting=1000,
        expected_error=0.0,
        rows=(),
    )
    known = Calibration(
        fingerprint="colours-1", annotations="x.json", similarity=curve, matching=None
    )
    searcher = Searcher(collection, ColourMatcher(), calibration=known)
    found = searcher.search("white", options=SearchOptions(min_score=0.9))
    assert moments(found) == [("blue-red.mp4", 2.0)]
    assert found[0].probability == pytest.approx(1 / (1 + math.exp(-5.0)), abs=1e-3)
    both = parts(Part(text="white"), Part(text="green"))
    assert searcher.search(both, options=SearchOptions(min_score=0.5)) == []
    least = {hit.video: hit.probability for hit in searcher.search(both, top=1)}
    assert max(least.values()) < 0.01
    neither = parts(Part(text="white"), Part(text="white", weight=-0.5))
    assert searcher.search(neither, options=SearchOptions(min_score=0.5)) == []
    for options, query, complaint in (
        (SearchOptions(min_score=0.5, rerank=True), "red", "with reranking were not calibrated"),
        (SearchOptions(min_score=0.5), collection.video_path("red-blue.mp4"), "for sentences"),
    ):
        with pytest.raises(ValueError, match=complaint):
            searcher.search(query, options=options)
    with pytest.raises(ValueError, match="--calibrate"):
        Searcher(collection, ColourEncoder()).search("red", options=SearchOptions(min_score=0.5))
    with pytest.raises(ValueError, match="min_score is 2"):
        SearchOptions(min_score=2.0)


def test_tokens_are_read_once(collection, tmp_path):
    class Counting(ColourMatcher):
        def video_tokens(self, frames_uint8):
            self.clips_seen += len(frames_uint8)
            return self._frame_vectors(frames_uint8)

    cache = TokenCache(tmp_path / "tokens.sqlite", limit_bytes=10**6)
    encoder = Counting()
    searcher = Searcher(collection, encoder, token_cache=cache)
    first = searcher.search("red blue", rerank=True)
    assert encoder.clips_seen == 4
    again = searcher.search("red blue", rerank=True)
    assert encoder.clips_seen == 4
    assert [hit.score for hit in again] == pytest.approx([hit.score for hit in first], abs=0.05)
    assert moments(again) == moments(first)
    write_colours(collection.video_path("red-blue.mp4"), "green red blue blue")
    searcher.search("red blue", rerank=True)
    assert encoder.clips_seen == 6
    cache.close()


def test_a_condition_limits_what_is_found(collection):
    with Collection.open(collection.path) as writer:
        writer.edit_metadata(["red-blue.mp4"], {"camera": "north"})
    searcher = Searcher(collection, ColourEncoder())
    north = SearchOptions(where="camera = 'north' and start >= 2")
    assert moments(searcher.search("a white wall", options=north)) == [("red-blue.mp4", 2.0)]
    assert len(searcher.search_videos("a white wall", options=north)) == 1
    with pytest.raises(ValueError, match="did you mean camera"):
        searcher.search("a white wall", options=SearchOptions(where="camra = 'north'"))
