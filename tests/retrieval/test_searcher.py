import pytest
from colour_encoder import ColourEncoder, ColourMatcher, write_colours

from reelscan.index.collection import Collection
from reelscan.index.embed import embed_folder
from reelscan.index.manifest import FingerprintMismatch, Manifest, Windowing
from reelscan.retrieval.searcher import Searcher
from reelscan.video.errors import VideoError


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
    with pytest.raises(ValueError, match="query is a video"):
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
