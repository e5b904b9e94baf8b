"""A collection in Milvus gives what one on disk gives, and either becomes the other."""

import numpy as np
import pytest
from colour_encoder import ColourEncoder, write_colours
from optional_package import require_package

from reelscan.index.collection import Collection
from reelscan.index.copy_rows import CollectionTarget, copy_videos
from reelscan.index.embed import embed_folder
from reelscan.index.manifest import CollectionError, FingerprintMismatch, Manifest, Windowing
from reelscan.index.milvus_collection import MilvusCollection
from reelscan.index.milvus_filter import milvus_filter
from reelscan.index.segments import NewSegment
from reelscan.index.stored_rows import by_video
from reelscan.index.video_files import VideoFile
from reelscan.retrieval.moments import SearchHit
from reelscan.retrieval.query import Part, Query
from reelscan.retrieval.searcher import Searcher, SearchOptions

WIDTH = 16
MANIFEST = Manifest(
    fingerprint="model-a",
    embed_dim=WIDTH,
    videos_root="/videos",
    windowing=Windowing(segments="shots"),
)
ODD = "odd \"name\" 'x' \\ é %.mp4"


def filled(path):
    draws = np.random.default_rng(0)
    with Collection.create(path, manifest=MANIFEST) as collection:
        for number, name in enumerate([*(f"{one:02d}.mp4" for one in range(29)), ODD]):
            segments = [
                NewSegment(
                    start_seconds=2.0 * place,
                    end_seconds=2.0 * place + 2 + number % 2,
                    vector=draws.normal(size=WIDTH).astype(np.float32),
                    metadata={"caption": f"caption {place}"} if place == 1 else {},
                    frame_codes=bytes([number, place]) if number % 3 else None,
                )
                for place in range(1 + number % 5)
            ]
            file = VideoFile(path=name, size_bytes=number + 10, mtime_ns=7)
            collection.add_video(file, segments)
            if number % 4:
                camera = {"camera": "north" if number % 4 == 1 else "south", "height": number / 2}
                collection.edit_metadata([name], camera)
    return path


@pytest.fixture
def address(tmp_path):
    require_package("pymilvus", extra="milvus")
    require_package("milvus_lite", extra="milvus")
    return str(tmp_path / "films.db")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The same rows on disk and in Milvus, for tests that change nothing."""
    require_package("pymilvus", extra="milvus")
    require_package("milvus_lite", extra="milvus")
    root = tmp_path_factory.mktemp("both")
    with (
        Collection.open(filled(root / "c")) as collection,
        MilvusCollection.create(
            str(root / "films.db"), collection="films", manifest=MANIFEST
        ) as milvus,
    ):
        copy_videos(by_video(collection.rows()), milvus)
        yield collection, milvus


def told(hits):
    return [
        [(hit.video, hit.start_seconds, hit.end_seconds, dict(hit.metadata)) for hit in one]
        for one in hits
    ]


def queries(count=4):
    draws = np.random.default_rng(5).normal(size=(count, WIDTH))
    return (draws / np.linalg.norm(draws, axis=1, keepdims=True)).astype(np.float32)


def test_it_finds_what_a_collection_on_disk_finds(both):
    collection, milvus = both
    assert len(milvus) == len(collection)
    expected, found = (one.search(queries(), top=20) for one in (collection, milvus))
    assert told(found) == told(expected)
    for one, other in zip(expected, found, strict=True):
        assert [hit.score for hit in other] == pytest.approx([hit.score for hit in one], abs=1e-5)
    ids = [hit.segment_id for hit in found[0]]
    np.testing.assert_allclose(milvus.vectors_of(ids) @ queries()[0],
                               [hit.score for hit in found[0]], atol=1e-5)  # fmt: skip
    assert len(milvus.sample_vectors(1000)) == len(milvus)
    codes = milvus.frame_codes_of(ids)
    theirs = collection.frame_codes_of([hit.segment_id for hit in expected[0]])
    assert sorted(codes.values()) == sorted(theirs.values()) and codes


def test_each_video_once(both):
    (expected,), (found,) = (one.search(queries(1), top=12, one_per_video=True) for one in both)
    assert [hit.video for hit in found] == [hit.video for hit in expected]


@pytest.mark.parametrize(
    "where",
    [
        "camera = 'north'",
        "camera != 'north'",
        "camera is null",
        "camera is not null and start >= 2",
        "not (camera = 'north')",
        "height in (1.5, 2.5, 3) or video = '08.mp4'",
        "height not in (1.5, 2.5)",
        "height > 3 and height <= 7 and duration < 3",
        "caption like 'caption%' or end > 9",
        "video not like '0%'",
        "not (height > 3 and camera = 'south')",
    ],
)
def test_conditions_let_the_same_pass(both, where):
    expected, found = (one.search(queries(1), top=99, where=where) for one in both)
    assert told(found) == told(expected)
    assert 0 < len(found[0]) < len(both[0])


def test_values_are_quoted_and_never_part_of_the_expression(both):
    hits = both[1].search(queries(1), top=99, where="video = 'odd \"name\" ''x'' \\ é %.mp4'")[0]
    assert {hit.video for hit in hits} == {ODD}
    assert milvus_filter("a = '\" or 1 == 1'") == (
        '(exists metadata["a"]) and (metadata["a"] == "\\" or 1 == 1")'
    )


def test_the_way_back_loses_nothing(both, tmp_path):
    collection, milvus = both
    with Collection.create(tmp_path / "back", manifest=milvus.manifest) as back:
        report = copy_videos(milvus.videos_with_rows(), CollectionTarget(back))
        assert (report.videos, report.rows) == (30, len(collection))

        def everything(one):
            return {
                file.path: (file, recorded, [
                    (row.start_seconds, row.end_seconds, row.vector.tolist(), row.metadata,
                     row.frame_codes) for row in segments
                ])
                for file, segments, recorded in by_video(one.rows())
            }  # fmt: skip

        assert everything(back) == everything(collection)


def test_changes_are_seen_at_once_and_doing_them_twice_changes_nothing(address, tmp_path):
    with (
        Collection.open(filled(tmp_path / "c")) as collection,
        MilvusCollection.create(address, collection="films", manifest=MANIFEST) as milvus,
    ):
        assert copy_videos(by_video(collection.rows()), milvus).videos == 30
        collection.add_video(
            VideoFile(path="04.mp4", size_bytes=99, mtime_ns=8),
            [NewSegment(start_seconds=0, end_seconds=9, vector=30 * queries(1)[0])],
        )
        for expected in (1, 0):
            report = copy_videos(by_video(collection.rows()), milvus)
            assert (report.videos, report.unchanged) == (expected, 30 - expected)
            assert len(milvus) == len(collection)
            assert milvus.search(queries(1), top=1)[0][0].video == "04.mp4"
        milvus.forget_videos(["04.mp4", ODD])
        assert milvus.search(queries(1), top=1)[0][0].video != "04.mp4"
        assert len(milvus.videos()) == 28
        assert not {"04.mp4", ODD} & set(milvus.videos())
        expected = told(milvus.search(queries()))
        with pytest.raises(FileExistsError, match="already"):
            MilvusCollection.create(address, collection="films", manifest=MANIFEST)
    with MilvusCollection.open(address, collection="films", fingerprint="model-a") as again:
        assert again.manifest == MANIFEST
        assert told(again.search(queries())) == expected
    with pytest.raises(FingerprintMismatch):
        MilvusCollection.open(address, collection="films", fingerprint="model-b")
    with pytest.raises(CollectionError, match=r"no collection 'other'; it has: films"):
        MilvusCollection.open(address, collection="other")
    with pytest.raises(CollectionError, match="no Milvus file"):
        MilvusCollection.open(address.replace("films", "none"), collection="films")
    with pytest.raises(ValueError, match="no Milvus"):
        MilvusCollection.open("somewhere", collection="films")


def test_the_same_searcher_answers_from_both(address, tmp_path):
    for name, colours in (("a.mp4", "red blue white"), ("b.mp4", "blue red green")):
        write_colours(tmp_path / "videos" / name, colours)
    embed_folder(ColourEncoder(), tmp_path / "videos", tmp_path / "c", window_seconds=1.0)
    query = Query(parts=(Part(text="red"), Part(text="green", weight=-0.5)))
    with (
        Collection.open(tmp_path / "c") as collection,
        MilvusCollection.create(address, collection="c", manifest=collection.manifest) as milvus,
    ):
        copy_videos(by_video(collection.rows()), milvus)
        on_disk, in_milvus = (Searcher(one, ColourEncoder()) for one in (collection, milvus))
        for options in (SearchOptions(), SearchOptions(fold_duplicates=True, join=False)):
            first, second = (
                one.search(query, top=99, options=options) for one in (on_disk, in_milvus)
            )
            # Equal scores come in the order of ids, which differ.
            assert sorted(map(_shown, first)) == sorted(map(_shown, second))
            assert len(first) >= 4
        assert [one.video for one in on_disk.search_videos("white")] == [
            one.video for one in in_milvus.search_videos("white")
        ]


def _shown(hit: SearchHit) -> tuple[object, ...]:
    score = round(hit.score, 4)
    return hit.video, hit.start_seconds, hit.end_seconds, score, hit.best_frame_seconds


def test_without_the_extra_the_remedy_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pymilvus", None)
    with pytest.raises(ImportError, match=r"pip install 'reelscan\[milvus\]'"):
        MilvusCollection.create(str(tmp_path / "a.db"), collection="a", manifest=MANIFEST)
