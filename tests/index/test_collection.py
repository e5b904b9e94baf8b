import shutil
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy as np
import pytest
from small_collection import MANIFEST, file, index_file, places, query, segments

from reelscan.index.collection import Collection
from reelscan.index.manifest import CollectionError, FingerprintMismatch
from reelscan.index.quarantine import quarantined_now


@pytest.fixture
def path(tmp_path):
    """A collection of two videos, closed."""
    with Collection.create(tmp_path / "my.collection", manifest=MANIFEST) as collection:
        collection.add_video(file("a.mp4"), segments([1, 0, 0], [0.5, 0.5, 0]))
        collection.add_video(file("sub/b.mp4"), segments([0, 1, 0]))
        collection.write_derived_files()
    return tmp_path / "my.collection"


def test_hits_come_best_first_with_everything_known_of_them(path):
    with Collection.open(path) as collection:
        first, second = collection.search(query(1, 0.1, 0), top=2)[0]
        assert (first.video, first.start_seconds, first.end_seconds) == ("a.mp4", 0.0, 1.0)
        assert first.score == pytest.approx(1.0)
        assert first.metadata == {"place": 0}
        assert (second.video, second.start_seconds) == ("a.mp4", 1.0)


def test_several_queries_are_answered_at_once_and_top_may_exceed_the_segments(path):
    with Collection.open(path) as collection:
        both = collection.search(np.concatenate([query(1, 0, 0), query(0, 1, 0)]), top=99)
        assert [len(hits) for hits in both] == [3, 3]
        assert [hits[0].video for hits in both] == ["a.mp4", "sub/b.mp4"]


def test_equal_scores_keep_the_order_of_segments(path):
    with Collection.open(path) as collection:
        found = collection.search(query(0, 0, 1))[0]
        assert places(found) == [("a.mp4", 0.0), ("a.mp4", 1.0), ("sub/b.mp4", 0.0)]


def test_one_per_video_looks_further_than_the_first_video(path):
    with Collection.open(path) as collection:
        collection.add_video(file("many.mp4"), segments(*[[2, 0, 0]] * 50))
        found = collection.search(query(1, 0.1, 0), top=3, one_per_video=True)[0]
        assert places(found) == [("many.mp4", 0.0), ("a.mp4", 0.0), ("sub/b.mp4", 0.0)]


def test_adding_a_video_again_replaces_it(path):
    with Collection.open(path) as collection:
        collection.add_video(file("a.mp4"), segments([0, 0, 1]))
        assert len(collection) == 2
        assert places(collection.search(query(0, 0, 1), top=1)[0]) == [("a.mp4", 0.0)]
        assert collection.search(query(1, 0, 0))[0][0].score == 0.0


def test_forgetting_and_quarantining_remove_the_segments(path):
    with Collection.open(path) as collection:
        collection.forget_videos(["sub/b.mp4"])
        collection.quarantine_video(quarantined_now(file("a.mp4"), "cut\noff"))
        assert len(collection) == 0
        assert collection.search(query(1, 0, 0)) == [[]]
        assert collection.quarantined()["a.mp4"].reason == "cut off"
        collection.add_video(file("a.mp4"), segments([1, 0, 0]))
        assert collection.quarantined() == {}


def test_another_process_s_changes_are_seen(path):
    with Collection.open(path, read_only=True) as reader, Collection.open(path) as writer:
        reader.search(query(1, 0, 0))
        writer.add_video(file("c.mp4"), segments([9, 0, 0]))
        writer.forget_videos(["a.mp4"])
        assert [hit.video for hit in reader.search(query(1, 0, 0))[0]] == ["c.mp4", "sub/b.mp4"]


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 4), np.float32), np.zeros(3, np.float32), query(np.nan, 0, 0)]
)
def test_bad_queries_are_refused(path, bad):
    with Collection.open(path) as collection, pytest.raises(ValueError, match="queries"):
        collection.search(bad)


def test_top_below_one_is_refused(path):
    with Collection.open(path) as collection, pytest.raises(ValueError, match="top is 0"):
        collection.search(query(1, 0, 0), top=0)


@pytest.mark.parametrize("bad", [[1, 0], [1, 0, np.nan]])
def test_bad_vectors_are_refused_and_nothing_of_the_video_stays(path, bad):
    with Collection.open(path) as collection:
        with pytest.raises(ValueError, match=r"c\.mp4.*vector"):
            collection.add_video(file("c.mp4"), segments([1, 0, 0], bad))
        assert "c.mp4" not in collection.videos()
        assert len(collection) == 3


def test_another_model_is_refused_naming_both(path):
    with pytest.raises(FingerprintMismatch, match=r"model-a.*model-b.*again") as caught:
        Collection.open(path, fingerprint="model-b")
    assert isinstance(caught.value, ValueError)
    Collection.open(path, fingerprint="model-a").close()


def flip_a_byte(index_file):
    content = bytearray(index_file.read_bytes())
    content[-5] ^= 0xFF
    index_file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (flip_a_byte, "checksum"),
        (lambda index_file: index_file.write_bytes(index_file.read_bytes()[:-8]), "checksum"),
        (lambda index_file: index_file.write_bytes(b""), "checksum"),
        (Path.unlink, "absent"),
    ],
)
def test_a_damaged_index_file_is_rebuilt_and_told(path, damage, reason):
    with Collection.open(path) as collection:
        expected = collection.search(query(1, 0.2, 0))
    damage(index_file(path))
    notices = []
    with Collection.open(path, on_notice=notices.append) as collection:
        assert collection.search(query(1, 0.2, 0)) == expected
    assert len(notices) == 1
    assert reason in notices[0]
    with Collection.open(path, on_notice=notices.append) as collection:
        assert collection.search(query(1, 0.2, 0)) == expected
    assert len(notices) == 1, "the rebuilt file was not kept"


def test_a_stale_index_file_is_not_believed(path):
    old = index_file(path).read_bytes()
    with Collection.open(path) as collection:
        collection.add_video(file("c.mp4"), segments([0, 0, 7]))
        collection.write_derived_files()
    index_file(path).write_bytes(old)
    with Collection.open(path) as collection:
        assert collection.search(query(0, 0, 1), top=1)[0][0].video == "c.mp4"


def test_reading_only_changes_no_file_and_refuses_changes(path):
    index_file(path).unlink()
    before = {one.name: one.read_bytes() for one in path.iterdir()}
    with Collection.open(path, read_only=True) as collection:
        assert collection.search(query(1, 0, 0), top=1)[0][0].video == "a.mp4"
        for change in (
            lambda: collection.add_video(file("c.mp4"), []),
            lambda: collection.forget_videos(["a.mp4"]),
            lambda: collection.quarantine_video(quarantined_now(file("a.mp4"), "bad")),
            lambda: collection.touch_video(file("a.mp4")),
            lambda: collection.move_root("/elsewhere"),
            collection.write_derived_files,
        ):
            with pytest.raises(CollectionError, match="reading only"):
                change()
    after = {one.name: one.read_bytes() for one in path.iterdir()}
    assert {name: after[name] for name in before} == before
    assert {name.removeprefix("segments.sqlite") for name in set(after) - set(before)} <= {
        "-wal",
        "-shm",
    }


def test_a_collection_that_may_not_be_written_can_be_searched(path):
    """On media that allow no writing at all, seen by a user who is not root."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "my.collection"
        shutil.copytree(path, copy)
        Path(folder).chmod(0o755)
        copy.chmod(0o555)
        script = textwrap.dedent("""
            import os, sys
            import numpy as np
            from reelscan.index.collection import Collection
            if os.getuid() == 0:
                os.setuid(65534)
            assert not os.access(sys.argv[1], os.W_OK)
            with Collection.open(sys.argv[1], read_only=True) as collection:
                print(collection.search(np.eye(3, dtype=np.float32)[:1], top=1)[0][0].video)
        """)
        done = subprocess.run(
            [sys.executable, "-c", script, str(copy)], capture_output=True, text=True, check=False
        )
        copy.chmod(0o755)
    assert done.stdout == "a.mp4\n", done.stderr


def test_a_damaged_database_is_one_clear_error(path):
    database = path / "segments.sqlite"
    database.write_bytes(b"not a database " * 500)
    with pytest.raises(CollectionError, match=r"segments\.sqlite is damaged"):
        Collection.open(path).videos()


def test_a_missing_database_is_not_made_up(path):
    (path / "segments.sqlite").unlink()
    with pytest.raises(CollectionError, match=r"segments\.sqlite"):
        Collection.open(path)
    assert not (path / "segments.sqlite").exists()


def test_vectors_of_another_width_are_damage(path):
    manifest = path / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"embed_dim": 3', '"embed_dim": 4'))
    with Collection.open(path) as collection, pytest.raises(CollectionError, match="not 4 wide"):
        collection.search(np.zeros((1, 4), np.float32))


def test_creating_takes_an_empty_folder_and_nothing_else(tmp_path, path):
    with pytest.raises(FileExistsError, match="exists already"):
        Collection.create(path, manifest=MANIFEST)
    (tmp_path / "empty").mkdir()
    Collection.create(tmp_path / "empty", manifest=MANIFEST).close()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["empty", "my.collection"]


def test_a_moved_folder_of_videos_can_be_recorded(path):
    with Collection.open(path) as collection:
        collection.move_root("/elsewhere")
    with Collection.open(path) as collection:
        assert collection.video_path("sub/b.mp4") == Path("/elsewhere/sub/b.mp4")
