"""What may happen to a collection on disk: full and read-only disks, damage, two writers, age."""

import json
import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import threading
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import small_collection
from small_collection import MANIFEST, file, index_file, places, query, segments

from reelscan.index.collection import Collection
from reelscan.index.index_settings import IndexSettings
from reelscan.index.manifest import CollectionError
from reelscan.index.quarantine import quarantined_now
from reelscan.index.writer_lock import CollectionBusy


@pytest.fixture
def path(tmp_path):
    """A collection of two videos, closed."""
    with Collection.create(tmp_path / "my.collection", manifest=MANIFEST) as collection:
        collection.add_video(file("a.mp4"), segments([1, 0, 0], [0.5, 0.5, 0]))
        collection.add_video(file("sub/b.mp4"), segments([0, 1, 0]))
        collection.write_derived_files()
    return tmp_path / "my.collection"


def run_elsewhere(script, *words, **settings):
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script), *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        **settings,
    )


# Writers and readers


def test_a_second_writer_gets_one_clear_error_and_readers_none(path):
    with Collection.open(path) as first, Collection.open(path) as second:
        assert len(second.search(query(1, 0, 0))[0]) == 3, "opening alone takes no lock"
        first.add_video(file("c.mp4"), segments([0, 0, 1]))
        with pytest.raises(CollectionBusy, match=rf"being written by process {os.getpid()} on"):
            second.add_video(file("d.mp4"), segments([0, 0, 1]))
        with pytest.raises(CollectionBusy):
            second.write_derived_files()
        assert second.search(query(0, 0, 1))[0][0].video == "c.mp4"
    with Collection.open(path) as third:
        third.add_video(file("d.mp4"), segments([0, 0, 1]))


def test_the_lock_dies_with_its_process(path):
    script = """
        import os, signal, sys
        from reelscan.index.collection import Collection
        collection = Collection.open(sys.argv[1])
        collection.lock()
        os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_elsewhere(script, path).returncode == -9
    with Collection.open(path) as collection:
        collection.forget_videos(["a.mp4"])


def test_readers_search_on_while_a_writer_adds_deletes_and_compacts(path):
    stop = threading.Event()
    failures = []

    def read():
        try:
            with Collection.open(path, read_only=True) as reader:
                while not stop.is_set():
                    hits = reader.search(query(0, 1, 0), top=50)[0]
                    assert hits[0].video == "sub/b.mp4"
                    assert len({hit.segment_id for hit in hits}) == len(hits)
                    assert len([hit for hit in hits if hit.video == "c.mp4"]) in (0, 20)
        except BaseException as error:  # noqa: BLE001 - handed to the main thread
            failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    with Collection.open(path) as writer:
        for _ in range(15):
            writer.add_video(file("c.mp4"), segments(*[[0, 0.5, 0.1]] * 20))
            writer.compact()
            writer.forget_videos(["c.mp4"])
    stop.set()
    for one in readers:
        one.join()
    assert failures == []


def test_changes_are_found_at_once_without_a_new_index_file(path):
    with Collection.open(path) as writer, Collection.open(path, read_only=True) as reader:
        before = index_file(path)
        reader.search(query(1, 0, 0))
        writer.add_video(file("c.mp4"), segments([0, 0, 1]))
        writer.add_video(file("a.mp4"), segments([0, 0, 2]))
        writer.edit_metadata(["c.mp4"], {"camera": "north", "hour": 7})
        for one in (writer, reader):
            found = one.search(query(0, 0, 1), top=9)[0]
            assert places(found) == [("a.mp4", 0.0), ("c.mp4", 0.0), ("sub/b.mp4", 0.0)]
            assert found[1].metadata == {"camera": "north", "hour": 7, "place": 0}
        writer.forget_videos(["c.mp4"])
        assert len(reader.search(query(0, 0, 1))[0]) == 2
        assert index_file(path) == before


def test_compaction_runs_in_the_background_once_much_has_changed(path):
    rng = np.random.default_rng(0)
    with Collection.open(path) as collection:
        before = index_file(path)
        vectors = rng.standard_normal((17_000, 3), dtype=np.float32)
        collection.add_video(file("long.mp4"), segments(*vectors))
        assert len(collection) == 17_003
        collection.write_derived_files()
        assert index_file(path) != before
        stats = collection.stats()
        assert (stats.newer_segments, stats.index.vectors) == (0, 17_003)
        assert collection.check().whole


# Metadata


def test_metadata_is_edited_and_survives_updates_and_quarantine(path):
    with Collection.open(path) as collection:
        collection.edit_metadata(["a.mp4", "sub/b.mp4"], {"camera": "north", "hour": 7})
        collection.edit_metadata(["a.mp4"], {"hour": None, "indoor": True})
        assert collection.metadata_of("a.mp4") == {"camera": "north", "indoor": True}
        collection.add_video(file("a.mp4"), segments([0, 0, 1]))
        collection.quarantine_video(quarantined_now(file("a.mp4"), "cut off"))
        assert collection.metadata_of("a.mp4") is None
        collection.add_video(file("a.mp4"), segments([0, 0, 1]))
        assert collection.metadata_of("a.mp4") == {"camera": "north", "indoor": True}
        assert collection.stats().metadata == {"camera": 2, "hour": 1, "indoor": 1}


@pytest.mark.parametrize("bad", [{"": 1}, {'a"b': 1}, {"a": [1]}])
def test_metadata_that_cannot_be_kept_is_refused(path, bad):
    with Collection.open(path) as collection:
        with pytest.raises(ValueError, match="cannot be kept"):
            collection.edit_metadata(["a.mp4"], bad)
        with pytest.raises(ValueError, match=r"no video 'x\.mp4'"):
            collection.edit_metadata(["a.mp4", "x.mp4"], {"camera": "north"})
        assert collection.metadata_of("a.mp4") == {}


# Disks


def test_a_full_disk_loses_nothing_and_is_told_in_one_line(path):
    with Collection.open(path) as collection:
        with collection._database.transaction() as connection:
            pages = connection.execute("PRAGMA page_count").fetchone()[0]
            connection.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(CollectionError, match=r"cannot be written.*full.*free some space"):
            collection.add_video(file("c.mp4"), segments(*[[0, 0, 1]] * 5000))
        assert "c.mp4" not in collection.videos()
        collection.add_video(file("d.mp4"), segments([0, 0, 1]))
        assert collection.check().whole


@pytest.mark.parametrize("limit_kib", [40, 90, 200])
def test_files_that_may_not_grow_lose_nothing(path, limit_kib):
    """As on a full disk, for every file at once: log, database and index."""
    script = """
        import sys
        import numpy as np
        sys.path.insert(0, sys.argv[2])
        from small_collection import file, segments
        from reelscan.index.collection import Collection
        with Collection.open(sys.argv[1]) as collection:
            for number in range(1000):
                vectors = np.full((200, 3), number, np.float32)
                try:
                    collection.add_video(file(f"{number}.mp4"), segments(*vectors))
                    print(number, flush=True)
                    collection.write_derived_files()
                except ValueError as error:
                    print(error)
                    break
    """
    limit = limit_kib * 1024
    support = Path(small_collection.__file__).parent
    done = run_elsewhere(
        script,
        path,
        support,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    *acknowledged, error = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert "free some space" in error
    with Collection.open(path) as collection:
        assert collection.check().damage == ()
        stored = {name for name in collection.videos() if name[0].isdigit()}
        assert stored == {f"{number}.mp4" for number in acknowledged}
        assert len(collection.search(query(1, 0, 0), top=10**6)[0]) == len(collection)
        collection.add_video(file("z.mp4"), segments([0, 0, 1]))
        collection.write_derived_files()
        assert collection.check().whole


def test_writing_into_a_read_only_folder_is_one_clear_error(path):
    script = """
        import os, sys
        from reelscan.index.collection import Collection
        if os.getuid() == 0:
            os.setuid(65534)
        with Collection.open(sys.argv[1]) as collection:
            print(len(collection))
            try:
                collection.forget_videos(["a.mp4"])
            except ValueError as error:
                print(error)
    """
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "my.collection"
        shutil.copytree(path, copy)
        Path(folder).chmod(0o755)
        copy.chmod(0o555)
        done = run_elsewhere(script, copy)
        copy.chmod(0o755)
    assert done.stdout.startswith("3\n"), done.stderr
    assert "cannot be written" in done.stdout


# Damage


def test_a_vector_that_rotted_is_found_and_its_video_named(path):
    with closing(sqlite3.connect(path / "segments.sqlite")) as connection, connection:
        blob = connection.execute("SELECT vector FROM vectors WHERE segment = 2").fetchone()[0]
        flipped = bytes([blob[0] ^ 1]) + blob[1:]
        connection.execute("UPDATE vectors SET vector = ? WHERE segment = 2", (flipped,))
    with Collection.open(path) as collection:
        report = collection.check()
    assert not report.whole
    assert "1 vectors are not what was written, of these videos: a.mp4" in report.damage[0]


def test_a_check_tells_a_damaged_index_file_and_writing_repairs_it(path):
    content = bytearray(index_file(path).read_bytes())
    content[len(content) // 2] ^= 4
    index_file(path).write_bytes(content)
    with Collection.open(path) as collection:
        assert "checksum" in collection.check().rebuildable[0]
        collection.write_derived_files()
        assert collection.check().whole


def test_an_index_file_of_other_segments_is_told(path, monkeypatch):
    with Collection.open(path) as collection:
        with collection._database.transaction() as connection:
            connection.execute("INSERT INTO deleted VALUES (77, 99)")
            connection.execute("DELETE FROM vectors WHERE segment = 1")
            connection.execute("DELETE FROM segments WHERE id = 1")
        assert "does not hold the segments" in collection.check().rebuildable[0]


def test_lists_are_repaired_too(tmp_path):
    rng = np.random.default_rng(0)
    settings = IndexSettings(exact_bytes=1000)
    path = tmp_path / "lists"
    with Collection.create(path, manifest=MANIFEST, settings=settings) as collection:
        vectors = rng.standard_normal((500, 3), dtype=np.float32)
        collection.add_video(file("a.mp4"), segments(*vectors))
        collection.write_derived_files()
        assert collection.stats().index.kind == "ivf-flat"
    index_file(path).write_bytes(index_file(path).read_bytes()[:-100])
    notices = []
    with Collection.open(path, read_only=True, settings=settings, on_notice=notices.append) as one:
        assert one.search(vectors[7:8])[0][0].score == pytest.approx(
            float((vectors @ vectors[7]).max())
        )
    assert "for this process alone" in notices[0]
    with Collection.open(path, settings=settings, on_notice=notices.append) as one:
        one.search(vectors[7:8])
        assert one.check().whole
    assert "built again" in notices[1]


# Age and place


def test_a_moved_collection_works_where_it_lies(path, tmp_path):
    with Collection.open(path, read_only=True) as collection:
        expected = collection.search(query(1, 0.2, 0))
    moved = tmp_path / "elsewhere" / "renamed"
    moved.parent.mkdir()
    shutil.move(path, moved)
    notices = []
    with Collection.open(moved, on_notice=notices.append) as collection:
        assert collection.search(query(1, 0.2, 0)) == expected
        collection.add_video(file("c.mp4"), segments([0, 0, 1]))
        collection.write_derived_files()
        assert collection.check().whole
    assert notices == []


@pytest.mark.parametrize("read_only", [True, False])
def test_what_a_newer_version_wrote_is_refused_and_left_alone(path, read_only):
    with closing(sqlite3.connect(path / "segments.sqlite")) as connection:
        connection.execute("PRAGMA user_version = 3")
    with pytest.raises(CollectionError, match=r"newer version.*upgrade reelscan"):
        Collection.open(path, read_only=read_only)
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": 2', '"format_version": 9'))
    before = manifest.read_text()
    with pytest.raises(CollectionError, match=r"format_version 9.*upgrade reelscan"):
        Collection.open(path, read_only=read_only)
    assert manifest.read_text() == before


FIRST_LAYOUT = """
CREATE TABLE videos(
    path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT);
CREATE TABLE segments(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    video TEXT NOT NULL REFERENCES videos(path) ON DELETE CASCADE,
    start_seconds REAL NOT NULL, end_seconds REAL NOT NULL,
    vector BLOB NOT NULL, metadata TEXT NOT NULL);
CREATE INDEX segments_by_video ON segments(video);
CREATE TABLE quarantine(
    path TEXT PRIMARY KEY, size_bytes INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, sha256 TEXT,
    reason TEXT NOT NULL, quarantined_at TEXT NOT NULL);
CREATE TABLE state(
    only_row INTEGER PRIMARY KEY CHECK (only_row = 1),
    generation INTEGER NOT NULL, flat_index_generation INTEGER, flat_index_sha256 TEXT);
INSERT INTO state VALUES (1, 4, 4, 'abc');
INSERT INTO videos VALUES ('a.mp4', 11, 12, NULL), ('b.mp4', 13, 14, 'f00');
INSERT INTO segments VALUES (3, 'a.mp4', 0, 1, ?1, '{"place": 5}'), (9, 'b.mp4', 1, 2, ?2, '{}');
INSERT INTO quarantine VALUES ('c.mp4', 1, 2, NULL, 'cut off', '2026-01-01T00:00:00+00:00');
"""


@pytest.fixture
def first_layout(path):
    """A collection as the first version wrote it."""
    for one in path.iterdir():
        if one.name != "manifest.json":
            one.unlink()
    manifest = json.loads((path / "manifest.json").read_text())
    del manifest["vector_type"]
    (path / "manifest.json").write_text(json.dumps({**manifest, "format_version": 1}))
    (path / "vectors.faiss").write_bytes(b"of the first version")
    vectors = [np.array(one, "<f4").tobytes() for one in ([1, 0, 0], [0, 1, 0])]
    with closing(sqlite3.connect(path / "segments.sqlite")) as connection, connection:
        connection.execute("PRAGMA journal_mode = WAL")
        for statement in FIRST_LAYOUT.split(";"):
            connection.execute(statement, vectors if "?1" in statement else ())
    return path


def test_a_collection_of_the_first_version_is_brought_up_to_date(first_layout):
    with pytest.raises(CollectionError, match="reelscan index rebuild"):
        Collection.open(first_layout, read_only=True)
    notices = []
    with Collection.open(first_layout, on_notice=notices.append) as collection:
        hits = collection.search(query(1, 0.5, 0))[0]
        assert [(hit.video, hit.segment_id, hit.metadata) for hit in hits] == [
            ("a.mp4", 3, {"place": 5}),
            ("b.mp4", 9, {}),
        ]
        assert collection.videos()["b.mp4"].sha256 == "f00"
        assert collection.quarantined()["c.mp4"].reason == "cut off"
        assert collection.check().whole
        collection.add_video(file("c.mp4"), segments([0, 0, 1]))
        assert collection.segments_of("c.mp4")[0].segment_id == 10
        collection.write_derived_files()
    assert len(notices) == 1
    assert not (first_layout / "vectors.faiss").exists()
    with Collection.open(first_layout, read_only=True, on_notice=notices.append) as collection:
        assert len(collection) == 3
    assert len(notices) == 1


def test_vectors_stored_in_half_the_space_score_nearly_the_same(tmp_path):
    manifest = type(MANIFEST)(**{**vars(MANIFEST), "vector_type": "float16"})
    with Collection.create(tmp_path / "half", manifest=manifest) as collection:
        collection.add_video(file("a.mp4"), segments([0.1, 0.2, 0.3]))
        with pytest.raises(ValueError, match="finite in float16"):
            collection.add_video(file("b.mp4"), segments([1e6, 0, 0]))
        assert collection.search(query(1, 1, 1))[0][0].score == pytest.approx(0.6, abs=5e-4)
        collection.write_derived_files()
        assert collection.check().whole
